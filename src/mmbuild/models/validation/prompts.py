"""Validates prompts and counts their tokens. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.models.errors import EngineError
from mmbuild.models.families import MODULES
from mmbuild.models.families.shared.chat import own_template
from mmbuild.models.files import chat_template
from mmbuild.models.files.expected_files import ExpectedFiles
from mmbuild.models.files.small_files import SmallFileError
from mmbuild.models.files.tokenizer_library import JSON, TokenizersError, library_errors, read_with_library
from mmbuild.models.files.vocabulary import read_tokenizer
from mmbuild.models.validation.checked_model import Model, image_token_of, template_of

DEFAULT_PROMPTS = ("What is in the picture?", "Describe the picture in detail.")
"""Prompts for recipes that name none; the model's chat template is applied."""


def require_unicode(prompts: Iterable[str | None]) -> None:
    """Check that prompts are valid UTF-8; Python represents invalid bytes as lone surrogates.

    Raises:
        EngineError: MM785.
    """
    for number, prompt in enumerate(prompts, start=1):
        try:
            (prompt or "").encode()
        except UnicodeEncodeError as error:
            raise EngineError(
                f"prompt {number} is not Unicode text: its character {error.start + 1} is a byte that is not "
                "UTF-8",
                code="MM785",
                hint="write the prompt in UTF-8; `iconv -f LATIN1 -t UTF-8` converts a file",
            ) from None


# A text has at most as many tokens as bytes, plus those that a tokenizer adds at the start and the end.
_ADDED = 4


def tokens_beyond(model: Model, expected: ExpectedFiles, prompt: str, limit: int) -> int | None:
    """Number of tokens of ``prompt`` with one image, including visual features, if it exceeds ``limit``.

    Args:
        model: The model.
        expected: The files that its family has next to config.json.
        prompt: The question; a complete prompt if it contains the image token.
        limit: ``max_input_len``.

    Returns:
        None if the prompt fits, or its tokens cannot be counted because the ``tokenizers`` library,
        ``tokenizer.json`` or a usable chat template is missing.
    """
    directory = model.directory("model", expected.tokenizer)
    if directory is None or model.facts.image_token_id is None:
        return None
    try:
        image = image_token_of(model, expected)
        text, special = _conversation(model, expected, directory, prompt, image)
    except MmbuildError:
        return None  # a damaged file or template, which is reported separately
    features = model.facts.visual.num_visual_features
    # Avoid loading a tokenizer, which is slow, for short prompts.
    if features + len(text.encode("utf-8", "replace")) + _ADDED <= limit:
        return None
    begun = bool(special) and text.startswith(special)
    try:
        tokenizer = read_with_library(directory / JSON)
        if tokenizer is None:
            return None
        with library_errors():
            ids = tokenizer.encode(text, add_special_tokens=not begun).ids
    except (SmallFileError, TokenizersError):
        return None  # the former is reported separately
    count = len(ids) - (ids.count(tokenizer.token_to_id(image)) if image in text else 0) + features
    return count if count > limit else None


def _conversation(
    model: Model, expected: ExpectedFiles, directory: Path, prompt: str, image: str
) -> tuple[str, str]:
    """The question with the chat template applied, and the BOS token."""
    saved = read_tokenizer(directory)
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
