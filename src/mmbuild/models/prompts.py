"""Prompts as text that a tokenizer can take, and how many tokens they take. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, require_regular
from mmbuild.models.errors import EngineError
from mmbuild.models.families import MODULES
from mmbuild.models.families.shared.chat import own_template
from mmbuild.models.files import chat_template
from mmbuild.models.files import vocabulary as tokenizer_file
from mmbuild.models.files.checked_model import Model, image_token_of, template_of
from mmbuild.models.files.expected_files import ExpectedFiles

DEFAULT_PROMPTS = ("What is in the picture?", "Describe the picture in detail.")
"""Asked where a recipe names no prompts; put into the model's chat form."""


def require_unicode(prompts: Iterable[str | None]) -> None:
    """Refuse prompts with bytes that are not UTF-8, which Python passes on as halves of surrogate pairs.

    Raises:
        EngineError: MM785.
    """
    for number, prompt in enumerate(prompts, start=1):
        try:
            (prompt or "").encode()
        except UnicodeEncodeError as error:
            raise EngineError(
                f"prompt {number} is not Unicode text: its character {error.start + 1} stands for a byte that is not "
                "UTF-8",
                code="MM785",
                hint="write the prompt in UTF-8; `iconv -f LATIN1 -t UTF-8` converts a file",
            ) from None


# No text has more tokens than bytes, but for those that a tokenizer adds in front and behind.
_ADDED = 4


def tokens_beyond(model: Model, expected: ExpectedFiles, prompt: str, limit: int) -> int | None:
    """Tokens of ``prompt`` about one picture, visual features included, where they are more than ``limit``.

    Args:
        model: The model.
        expected: What its family keeps next to config.json.
        prompt: The question; complete already where it names the image token.
        limit: ``max_input_len``.

    Returns:
        None where it fits, and where it cannot be counted: the ``tokenizers`` library, ``tokenizer.json`` or a usable
        chat template is missing.
    """
    directory = model.directory("model", expected.tokenizer)
    if directory is None or model.facts.image_token_id is None:
        return None
    try:
        image = image_token_of(model, expected)
        text, special = _conversation(model, expected, directory, prompt, image)
    except MmbuildError:
        return None  # a damaged file or template, which is a finding of its own
    features = model.facts.visual.num_visual_features
    # A tokenizer takes long to load, and most questions are short.
    if features + len(text.encode("utf-8", "replace")) + _ADDED <= limit:
        return None
    tokenizer = _tokenizer(directory / "tokenizer.json")
    if tokenizer is None:
        return None
    begun = bool(special) and text.startswith(special)
    ids = tokenizer.encode(text, add_special_tokens=not begun).ids
    found = len(ids) - (ids.count(tokenizer.token_to_id(image)) if image in text else 0) + features
    return found if found > limit else None


def _conversation(
    model: Model, expected: ExpectedFiles, directory: Path, prompt: str, image: str
) -> tuple[str, str]:
    """The question in the model's chat form, and the token for a beginning."""
    saved = tokenizer_file.read_tokenizer(directory)
    special = {} if saved is None else saved.special
    template = template_of(model, expected)
    begin = special.get("bos_token", "")
    if image in prompt or (template is None and expected.template is None):
        return prompt, begin
    used = template or own_template(MODULES[model.family]).replace("<image>", image)
    form = chat_template.content_form(used, special, image)
    parts = [{"type": "image"}, {"type": "text", "text": prompt}]
    content: Any = parts if form == "parts" else f"{image}\n{prompt}"
    messages = [{"role": "user", "content": content}]
    return chat_template.render(used, messages, special_tokens=special), begin


def _tokenizer(file: Path) -> Any:
    try:
        found = require_regular(file)
    except (OSError, FileRefusedError):
        return None
    return _loaded(file, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=2)
def _loaded(file: Path, stat: tuple[int, ...]) -> Any:  # noqa: ARG001 (key)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        found = Tokenizer.from_file(str(file))
        # What was saved with the tokenizer counts for nothing: transformers pads and cuts where it is told to.
        found.no_padding()
        found.no_truncation()
        return found
    # The library raises bare exceptions about files that it does not understand.
    except Exception:
        return None
