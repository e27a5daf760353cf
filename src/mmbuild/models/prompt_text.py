"""Prompts as text that a tokenizer can take, and the ones that stand for none. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable

from mmbuild.models.errors import EngineError

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
