"""Checks the name of the class that joins a model's tokenizer and image processor.

``AutoProcessor`` of transformers (5.10 to 5.17) takes the first name that it finds in the model's files. If it has no
class of that name, it loads the tokenizer alone, which can preprocess no image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.processor_config import PROCESSOR, read_image_processor
from mmbuild.models.files.small_files import display, read_json
from mmbuild.models.files.transformers_names import transformers_names

_KEY = "processor_class"
_USUAL = frozenset({"LlavaProcessor", "NougatProcessor", "CLIPProcessor"})
_PARTS = ("ImageProcessor", "VideoProcessor")  # classes without a tokenizer


def require_processor_class(directory: Path) -> None:
    """Check that transformers has the class that a model's files name, if they name one.

    Args:
        directory: Directory of the files.

    Raises:
        ModelFilesError: MM744, it has not, or the class is none of a whole processor.
        SmallFileError: MM731, a file is damaged.
    """
    for file, content in _places(directory):
        stated = content.get(_KEY)
        if stated is None:
            continue
        if not _is_known(stated):
            raise ModelFilesError(
                f"`{_KEY}` in `{display(file)}` is {json.dumps(stated)[:80]}: transformers has no such class of "
                "processors, and would load the tokenizer alone",
                code="MM744",
                hint="remove the key: the class then follows from config.json. Code of the model is not run",
            )
        return


def _places(directory: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Files that may name the class, in the order in which transformers reads them."""
    file = directory / PROCESSOR
    if file.is_file():
        yield file, read_json(file)
    images = read_image_processor(directory)
    if images is not None:
        yield images.file, images.settings
    file = directory / "tokenizer_config.json"
    if file.is_file():
        yield file, read_json(file)


def _is_known(stated: Any) -> bool:
    if not isinstance(stated, str) or not stated.endswith("Processor") or stated.endswith(_PARTS):
        return False
    if stated in _USUAL:
        return True
    names = transformers_names()
    return names is None or stated in names
