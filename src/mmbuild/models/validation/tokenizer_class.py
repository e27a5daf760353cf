"""Checks that the class in ``tokenizer_config.json`` takes the vocabulary in ``tokenizer.json``.

transformers (5.10 to 5.17) builds a tokenizer of that class from the vocabulary, for most kinds of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import display, read_json
from mmbuild.models.files.tokenizer_library import CONFIG, JSON

_PLAIN = frozenset({"PreTrainedTokenizer", "TokenizersBackend"})
"""Classes that take tokenizer.json as it is."""
_ANY = frozenset(
    {"CodeLlamaTokenizer", "GPT2Tokenizer", "LlamaTokenizer", "NougatTokenizer", "Qwen2Tokenizer"}
)
"""Usual classes that take any vocabulary, if no setting that they may need is null."""
_UNIGRAM = frozenset({"T5Tokenizer"})
"""Usual classes that take only the vocabulary of a Unigram model, under the same condition."""
_NEEDED = ("add_prefix_space", "bos_token", "eos_token", "unk_token")


def require_tokenizer_class(directory: Path) -> None:
    """Check that transformers can load a tokenizer of the class that its config names.

    Only unusual classes and settings are tried; without transformers they are accepted.

    Args:
        directory: Directory of the tokenizer's files.

    Raises:
        ModelFilesError: MM731, it cannot.
        SmallFileError: MM731, a file is damaged.
    """
    config, file = directory / CONFIG, directory / JSON
    settings = read_json(config) if config.is_file() and file.is_file() else {}
    stated = settings.get("tokenizer_class")
    if _is_usual(settings, str(stated or "").removesuffix("Fast"), file):
        return
    reason = _failure(directory)
    if reason is not None:
        raise ModelFilesError(
            f"`tokenizer_class` in `{display(config)}` is {json.dumps(stated)[:80]}, and transformers cannot load "
            f"such a tokenizer with these settings from `{JSON}`: {reason}",
            code="MM731",
            hint=f"take {CONFIG} and {JSON} from the same model, or set `tokenizer_class` to "
            "`PreTrainedTokenizerFast`",
        )


def _is_usual(settings: Mapping[str, Any], name: str, file: Path) -> bool:
    if name in _PLAIN:
        return True
    if any(key in settings and settings[key] is None for key in _NEEDED):
        return False
    model = read_json(file).get("model")
    unigram = isinstance(model, dict) and model.get("type") == "Unigram"
    return not name or name in _ANY or (unigram and name in _UNIGRAM)


def _failure(directory: Path) -> str | None:
    try:
        from mmbuild.models.families.shared.hugging_face import saved_tokenizer
    except ImportError:
        return None
    try:
        saved_tokenizer(directory)
    except MmbuildError as error:
        return error.message.partition("cannot be loaded: ")[2] or error.message
    return None
