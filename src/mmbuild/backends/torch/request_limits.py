"""Limits of an engine that a request can exceed. They are checked without torch, before the engine is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.backends.base import RunRequest
from mmbuild.models.errors import EngineError
from mmbuild.models.families import family
from mmbuild.models.families.questions import require_question


def require_new_tokens(requested: int, limit: int) -> None:
    """Check the number of new tokens.

    Raises:
        EngineError: MM515, it is not 1 to ``limit``.
    """
    if not 1 <= requested <= limit:
        raise EngineError(
            f"{requested} new tokens are requested, but the engine supports 1 to {limit}",
            code="MM515",
            hint="request fewer tokens, or raise max_output_len in the recipe",
        )


def require_beams(width: int, limit: int) -> None:
    """Check the number of beams.

    Raises:
        EngineError: MM522, it is more than ``limit``.
    """
    if width > limit:
        raise EngineError(
            f"{width} beams are requested, but the engine supports 1 to {limit}",
            code="MM522",
            hint="use fewer beams, or raise max_beam_width in the recipe",
        )


def require_possible(family_name: str, llm: Mapping[str, Any], request: RunRequest) -> None:
    """Check what engine.json alone decides about a request.

    Args:
        family_name: The engine's family.
        llm: ``EngineConfig`` as JSON.
        request: The request.

    Raises:
        EngineError: MM515, MM518, MM522.
    """
    takes_text = not family(family_name).TRAITS.cross_attention
    for _, prompt in request.pairs:
        require_question(prompt, takes_text=takes_text)
    if request.max_new_tokens is not None:
        require_new_tokens(request.max_new_tokens, llm["max_output_len"])
    require_beams(request.beams.get("width", 1), llm["max_beam_width"])
