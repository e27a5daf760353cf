"""Limits for the size, depth and length of everything that mmbuild reads, in one table.

Every parser of untrusted files uses a row of this table. Limits are far above real files, and below what would cost
a gigabyte of memory, five seconds, or a stack overflow. (A text of 64 MB takes 256 MB once decoded, and four million
values take as much again.)
"""

from __future__ import annotations

from dataclasses import dataclass

KB, MB = 1_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """Limits of one kind of JSON text.

    Attributes:
        kind: Name of the kind in messages.
        size: Bytes of the text.
        depth: Nesting depth of arrays and objects.
        values: Commas and opening brackets in the text: an upper bound of the number of values.
        length: Characters of a string.
        why: Justification of the numbers.
    """

    kind: str
    size: int
    depth: int
    values: int
    length: int
    why: str


DIGITS = 40
"""Digits of a number. ``model_max_length`` of many tokenizers is int(1e30), which has 31."""

NAME = 255
"""Bytes of a path component, as in Linux file systems (NAME_MAX)."""

PATH = 4_000
"""Bytes of a path: below PATH_MAX, with room for a directory in front."""

DATA_LINES, DATA_BYTES = 200_000, 256 * MB
"""Lines and bytes of a JSONL file of pictures and prompts: calibration data, or the questions of eval."""

ENTRIES = 100_000
"""Entries of a directory: a model has dozens of files, a folder of calibration pictures several thousand."""

MODEL_JSON = Limit(
    "a model's JSON file",
    16 * MB,
    64,
    1_000_000,
    4 * MB,
    "config, processor and generation files take kilobytes; a tokenizer_config.json with a template and a thousand "
    "added tokens takes one megabyte",
)
TOKENIZER = Limit(
    "a tokenizer",
    64 * MB,
    64,
    4_000_000,
    16 * MB,
    "the largest public tokenizer.json (256,000 tokens and their merges as pairs) takes 33 MB and 2 million values",
)
SHARD_INDEX = Limit(
    "an index of weights",
    32 * MB,
    8,
    2_000_000,
    64 * KB,
    "a line of 100 bytes per tensor; models with 400 B parameters have 100,000 tensors",
)
TENSOR_HEADER = Limit(
    "a safetensors header",
    32 * MB,
    8,
    2_000_000,
    1 * MB,
    "120 bytes per tensor; safetensors itself accepts up to 100 MB",
)
HUB_LISTING = Limit(
    "a listing of the hub", 64 * MB, 8, 4_000_000, 64 * KB, "200 bytes per file; data sets have 100,000 files"
)
YAML_TEXT = Limit(
    "a recipe, lock or configuration",
    1 * MB,
    32,
    20_000,
    64 * KB,
    "a recipe is a page; a matrix of a hundred variants and its lock take a few thousand lines. Values are counted "
    "after aliases are expanded",
)
LOCK_TEXT = Limit(
    "a lock", 16 * MB, 32, 500_000, 64 * KB, "three lines for each file of a model and each package"
)
CALIBRATION_LINE = Limit(
    "a line of calibration data", 1 * MB, 16, 100_000, 1 * MB, "a prompt and a picture's name"
)
QUESTION_LINE = Limit(
    "a line of questions", 1 * MB, 16, 10_000, 1 * MB, "a prompt, names of pictures and accepted answers"
)
ENGINE_JSON = Limit(
    "an engine's description", 4 * MB, 32, 400_000, 1 * MB, "hundreds of packages with a few lines each"
)
ENGINE_MANIFEST = Limit(
    "an engine's manifest", 64 * MB, 32, 4_000_000, 1 * MB, "100 bytes per file, and the recipe's settings"
)
HASHED_FILES = Limit(
    "a list of hashed files", 2 * MB, 4, 20_000, 200, "4,096 large engine files, 200 bytes each"
)
CHECKPOINT_CONFIG = Limit(
    "a checkpoint's config", 16 * MB, 32, 1_000_000, 1 * MB, "a line for each linear layer"
)
MEASUREMENTS = Limit("measurements", 64 * MB, 16, 4_000_000, 1 * MB, "answers to a few thousand questions")
SERVER_EVENT = Limit(
    "an event or a short answer of a server",
    1 * MB,
    16,
    50_000,
    1 * MB,
    "a chunk of a streamed answer takes a few hundred bytes; a list of models a few kilobytes",
)
SAVED_PLAN = Limit(
    "a saved plan", 64 * MB, 64, 4_000_000, 1 * MB, "5 kB per action; 1,000 variants with ten actions"
)
STORE_TREE = Limit(
    "an artifact's manifest", 64 * MB, 8, 4_000_000, 8 * KB, "200 bytes per file; paths within their limit"
)
STORE_RECORD = Limit(
    "a line of the journal", 1 * MB, 16, 50_000, 64 * KB, "keys, digests and a label; 100 bytes per input"
)
STORE_HISTORY = Limit(
    "a line of the history", 8 * MB, 8, 1_000_000, 64 * KB, "the labels of all actions of one apply"
)
JOURNAL = 4_000 * MB
"""Bytes of a journal: six million actions. A larger one was not written by mmbuild."""

STORE_NOTE = Limit(
    "a note of the store",
    64 * MB,
    64,
    4_000_000,
    1 * MB,
    "definitions, named builds and cached plans; like a saved plan",
)
SERVED_REQUEST = Limit(
    "a request to the server",
    64 * MB,
    16,
    100_000,
    32 * MB,
    "pictures of 20 MB as base64 in a few messages of text",
)
SHARED_ENTRY = Limit(
    "an entry of a shared store", 1 * MB, 16, 50_000, 64 * KB, "a journal record and its signature"
)
MESSAGE = Limit("a message", 64 * MB, 64, 4_000_000, 16 * MB, "sent between the processes of a build")

LIMITS = tuple(value for value in globals().values() if isinstance(value, Limit))
"""Every row, for documentation and tests."""
