"""Rejects models that require their own Python code, which is never run.

``auto_map`` in a file names classes in the model's code. It is ignored if the file also names a class of
transformers, or the model's type has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import display, read_json

# File, key of the class, and its entry in `auto_map`.
_FILES = (
    ("tokenizer_config.json", "tokenizer_class", "AutoTokenizer"),
    ("preprocessor_config.json", "image_processor_type", "AutoImageProcessor"),
    ("preprocessor_config.json", "processor_class", "AutoProcessor"),
    ("processor_config.json", "processor_class", "AutoProcessor"),
    ("processor_config.json", "image_processor_type", "AutoImageProcessor"),
)
# Classes of transformers 5.10 to 5.17 that the supported families use, with their suffixes for other variants.
_TOKENIZERS = (
    "Llama|CodeLlama|GPT2|T5|Nougat|PreTrained|Bert|Roberta|XLMRoberta|Bart|MBart|Qwen2|Gemma|Cohere"
)
_IMAGES = "CLIP|Siglip|Siglip2|Blip|Nougat|Donut|ViT|Llava|LlavaNext|ConvNext|Bit"
_PROCESSORS = "Llava|LlavaNext|Blip2|InstructBlip|Blip|Nougat|CLIP|Siglip|Donut"
_OWN = {
    "AutoTokenizer": re.compile(rf"(({_TOKENIZERS})Tokenizer(Fast)?|TokenizersBackend|SentencePieceBackend)"),
    "AutoImageProcessor": re.compile(rf"({_IMAGES})(ImageProcessor|FeatureExtractor)(Fast|Pil)?"),
    "AutoProcessor": re.compile(rf"({_PROCESSORS})Processor"),
}


def require_no_code(directory: Path) -> None:
    """Check that tokenizer and processor do not require code from the model.

    Args:
        directory: Directory of their files.

    Raises:
        ModelFilesError: MM750.
        SmallFileError: MM731, a file is damaged.
    """
    for name, key, auto in _FILES:
        file = directory / name
        for settings in _sections(file):
            named = settings.get("auto_map")
            entry = named.get(auto) if isinstance(named, Mapping) else named
            stated = settings.get(key)
            if entry and stated and not _OWN[auto].fullmatch(str(stated)):
                raise ModelFilesError(
                    f"`{display(file)}` names the class `{str(stated)[:80]}`, which comes with the model as code in "
                    f"`{_first(entry)}`; mmbuild runs no code of a model",
                    code="MM750",
                    hint="take a version of the model whose files name classes of transformers",
                )


def _sections(file: Path) -> Iterator[Mapping[str, Any]]:
    if not file.is_file():
        return
    content = read_json(file)
    yield content
    nested = content.get("image_processor")
    if isinstance(nested, Mapping):
        yield nested


def _first(entry: Any) -> str:
    name = next((item for item in entry if item), "") if isinstance(entry, list) else entry
    return f"{str(name).rpartition('.')[0] or name}.py"[:80]
