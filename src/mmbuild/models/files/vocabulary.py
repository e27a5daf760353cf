"""Reads saved tokenizers: which tokens they have, with which ids, and which are special."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.sentencepiece_file import pieces
from mmbuild.models.files.small_files import SmallFileError, display, read_json
from mmbuild.models.files.tokenizer_values import NAMED, config_problems, map_problems

_MOST_IDS = 1 << 32  # ids are unsigned 32-bit integers in the tokenizers library
_JSON, _CONFIG, _ADDED, _NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
_PIECES = ("tokenizer.model", "spiece.model")
_FILES = (_JSON, _CONFIG, _ADDED, _NAMES, *_PIECES, "vocab.json")

# Prefixes of classes that keep the ids of a SentencePiece model.
_BY_POSITION = ("Llama", "T5")
# Default tokens of LLaMA's classes; other classes have none.
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the origin of its id.

    Attributes:
        text: The token.
        id: Its id.
        file: Name of the file that contains it.
    """

    text: str
    id: int
    file: str


@dataclass(frozen=True, slots=True)
class SavedTokenizer:
    """A saved tokenizer.

    Attributes:
        tokens: All tokens by text.
        whole: Texts of the tokens that are matched anywhere in a text and never split.
        special: Special tokens by name (``bos_token``), as passed to chat templates.
    """

    tokens: Mapping[str, Token]
    whole: frozenset[str]
    special: Mapping[str, str]

    @property
    def image_token(self) -> str | None:
        """The image token according to the tokenizer; None if it names none."""
        return self.special.get("image_token")

    def named(self, token_id: int) -> str | None:
        """The text of the token with this id."""
        return next((token.text for token in self.tokens.values() if token.id == token_id), None)


def read_tokenizer(directory: Path) -> SavedTokenizer | None:
    """The tokenizer in ``directory``; None if no vocabulary can be read without its library.

    Raises:
        SmallFileError: MM731, a file is damaged or has unexpected content.
        ModelFilesError: MM737, two files give a token different ids.
    """
    stats = tuple(_stat(directory / name) for name in _FILES)
    return _read(directory, stats)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _read(directory: Path, stats: tuple[tuple[int, ...] | None, ...]) -> SavedTokenizer | None:  # noqa: ARG001 (key)
    vocabulary = _vocabulary(directory)
    if vocabulary is None:
        return None
    config = _optional(directory / _CONFIG)
    _require_no_methods(directory / _CONFIG, config)
    _require_loadable(directory / _CONFIG, config, config_problems(config))
    known, whole = vocabulary
    stated = list(_added(directory, config))
    _require_one_id(directory, known, [*stated, *_second_vocabulary(directory, config)])
    if "added_tokens_decoder" not in config:
        names = _optional(directory / _NAMES)
        _require_loadable(directory / _NAMES, names, map_problems(names))
        config = {**config, **{key: _text(value) or value for key, value in names.items()}}
    tokens = dict(known)
    more = [token.text for token in stated] + list(_special_texts(config))
    file = _CONFIG if (directory / _CONFIG).is_file() else _ADDED
    new = [text for text in dict.fromkeys(more) if text not in known]
    first = max((token.id for token in known.values()), default=-1) + 1
    tokens |= {text: Token(text, number, file) for number, text in enumerate(new, start=first)}
    special = dict(_named(config))
    if _class(config).startswith(_BY_POSITION[0]):
        special = {name: text for name, text in _LLAMA.items() if name not in config} | special
    return SavedTokenizer(tokens, whole | frozenset(more), special)


# Methods of transformers' tokenizers; a setting of that name cannot be stored on one.
_METHODS = (
    "add_special_tokens",
    "add_tokens",
    "apply_chat_template",
    "decode",
    "encode",
    "get_vocab",
    "pad",
    "tokenize",
)


def _require_no_methods(file: Path, config: Mapping[str, Any]) -> None:
    for name in _METHODS:
        if name in config:
            raise SmallFileError(
                f"`{name}` in `{display(file)}` is {json.dumps(config[name])}: transformers' tokenizers have a "
                "method of that name, and cannot be loaded with such a setting",
                code="MM731",
                hint="remove the key"
                + ("; `add_bos_token` may be what it means" if "special" in name else ""),
            )


def _require_loadable(file: Path, content: Mapping[str, Any], problems: Iterator[tuple[str, str]]) -> None:
    for key, problem in problems:
        raise SmallFileError(
            f"`{key}` in `{display(file)}` is {json.dumps(content[key])[:80]}: {problem}, so that transformers "
            "cannot load the tokenizer",
            code="MM731",
            hint="copy the value from the original model, or remove the key",
        )


def _optional(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}


def _vocabulary(directory: Path) -> tuple[dict[str, Token], frozenset[str]] | None:
    """Tokens by text, and those that are never split, from the first file with a vocabulary."""
    file = directory / _JSON
    if file.is_file():
        return _of_json(file)
    for name in _PIECES:
        if (directory / name).is_file():
            texts = pieces(directory / name)
            return {text: Token(text, number, name) for number, text in enumerate(texts)}, frozenset()
    file = directory / "vocab.json"
    if file.is_file():
        return {
            text: Token(text, number, file.name) for text, number in _ids(file, read_json(file))
        }, frozenset()
    return None


def _second_vocabulary(directory: Path, config: Mapping[str, Any]) -> list[Token]:
    """The pieces next to a ``tokenizer.json``, for tokenizers whose ids are positions of pieces."""
    if not (directory / _JSON).is_file() or not _class(config).startswith(_BY_POSITION):
        return []
    found = [name for name in _PIECES if (directory / name).is_file()]
    return [
        Token(text, number, name) for name in found for number, text in enumerate(pieces(directory / name))
    ]


def _class(config: Mapping[str, Any]) -> str:
    # Old files without a class name are LLaMA's.
    return str(config.get("tokenizer_class") or _BY_POSITION[0])


def _of_json(file: Path) -> tuple[dict[str, Token], frozenset[str]]:
    content = read_json(file)
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids = _ids(file, vocabulary)
    elif isinstance(vocabulary, list):
        ids = [(_listed(file, item), number) for number, item in enumerate(vocabulary)]
    else:
        raise _no_tokenizer(file, "it has no `model` with a `vocab`")
    added = content.get("added_tokens") or []
    try:
        whole = [(str(item["content"]), int(item["id"])) for item in added]
    except (TypeError, KeyError, ValueError):
        raise _no_tokenizer(file, "its `added_tokens` are not a list of `id` and `content`") from None
    if not all(0 <= number < _MOST_IDS for _, number in whole):
        raise _no_tokenizer(file, "its `added_tokens` have ids that are not whole numbers from 0")
    tokens = {text: Token(text, number, file.name) for text, number in [*ids, *whole]}
    return tokens, frozenset(text for text, _ in whole)


def _ids(file: Path, vocabulary: Mapping[str, Any]) -> list[tuple[str, int]]:
    for text, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < _MOST_IDS:
            reason = f"its vocabulary gives {json.dumps(text)} the id {json.dumps(number)}"
            raise _no_tokenizer(file, f"{reason}, and ids are whole numbers from 0")
    return list(vocabulary.items())


def _listed(file: Path, item: object) -> str:
    if isinstance(item, list) and item and isinstance(item[0], str):
        return item[0]
    raise _no_tokenizer(file, "its vocabulary is not a list of tokens and scores")


def _no_tokenizer(file: Path, reason: str) -> SmallFileError:
    return SmallFileError(
        f"`{display(file)}` is not a tokenizer: {reason}", code="MM731", hint="download the file again"
    )


def _added(directory: Path, config: Mapping[str, Any]) -> Iterator[Token]:
    """Tokens with ids from files next to the vocabulary, in the order of their ids."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        file, entries = directory / _CONFIG, [(_text(value), number) for number, value in decoder.items()]
    else:
        file = directory / _ADDED
        entries = list(_optional(file).items())
    try:
        tokens = [Token(str(text), int(number), file.name) for text, number in entries if text is not None]
    except (TypeError, ValueError):
        raise _no_tokenizer(file, "its added tokens have ids that are not numbers") from None
    return iter(sorted(tokens, key=lambda token: token.id))


def _require_one_id(directory: Path, known: Mapping[str, Token], stated: list[Token]) -> None:
    for token in stated:
        other = known.get(token.text)
        if other is not None and other.id != token.id:
            raise ModelFilesError(
                f"in `{display(directory)}`, `{token.text}` is {other.id} in `{other.file}` and {token.id} in "
                f"`{token.file}`",
                code="MM737",
                hint="take all tokenizer files from the same version of the model",
            )


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Special tokens by name: the standard ones, then the model's, with priority for ``extra_special_tokens``."""
    for name in NAMED:
        text = _text(config.get(name))
        if text is not None:
            yield name, text
    extra = config.get("extra_special_tokens")
    own = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
    own |= extra if isinstance(extra, dict) else {}
    for name, value in own.items():
        text = _text(value)
        if name not in NAMED and text is not None:
            yield name, text


def _special_texts(config: Mapping[str, Any]) -> Iterator[str]:
    """Texts of special tokens: named ones first, then the others."""
    yield from (text for _, text in _named(config))
    more = config.get("extra_special_tokens", config.get("additional_special_tokens"))
    yield from filter(None, map(_text, more if isinstance(more, list) else ()))


def _text(value: object) -> str | None:
    """The text of a token, stored as a string or as ``content`` with options."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None
