"""Checks whether a question fits a family. Imports no torch."""

from __future__ import annotations

from mmbuild.models.errors import EngineError


def require_question(prompt: str | None, *, takes_text: bool) -> None:
    """Check that there is a question exactly if the model takes one.

    Raises:
        EngineError: MM518.
    """
    if takes_text and prompt is None:
        raise EngineError("the model needs a question", code="MM518", hint="pass one with --prompt")
    if not takes_text and prompt is not None:
        raise EngineError(
            "the model reads only images and takes no question", code="MM518", hint="omit the prompt"
        )
