"""The reference an engine is held against: transformers, on the model's own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.engine.config import DTYPES
from mmbuild.engine.processor import Request
from mmbuild.families import part


@dataclass(frozen=True, slots=True)
class Continuation:
    """Greedy tokens of one request and the logits they were taken from.

    Attributes:
        tokens: N token ids.
        logits: float32 [N, vocab].
    """

    tokens: tuple[int, ...]
    logits: Tensor


def load_reference(family: str, sources: Mapping[str, Path], dtype: str, device: str) -> Any:
    """The model as transformers runs it, in ``dtype`` on ``device``.

    Args:
        family: Whose.
        sources: Model directories, ``{"model": ...}`` and where the recipe names one ``"vision"``.
        dtype: As in recipes.
        device: ``cpu`` or ``cuda``.

    Raises:
        EngineError: MM563, transformers cannot load it.
    """
    loaded = part(family, "reference").load(sources, DTYPES[dtype], device)
    # Answers are compared over their full length: no token ends one.
    loaded.generation_config.eos_token_id = None
    return loaded


def arguments(reference: Any, request: Request) -> dict[str, Any]:
    """What transformers' ``generate`` takes for a request."""
    pixels = request.pixels.to(reference.device, reference.dtype) if request.pixels.numel() else None
    images = {} if pixels is None else {"pixel_values": pixels}
    if reference.config.is_encoder_decoder and not hasattr(reference.config, "text_config"):
        return images  # the page is the whole prompt
    ids = torch.tensor([request.ids], device=reference.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}


def continue_greedily(
    reference: Any, request: Request, count: int, suppressed: Sequence[int] = ()
) -> Continuation:
    """``count`` greedy tokens after ``request``, end tokens or not; ``suppressed`` ones never."""
    given = arguments(reference, request)
    with torch.inference_mode():
        result = reference.generate(
            **given,
            do_sample=False,
            num_beams=1,
            max_new_tokens=count,
            pad_token_id=0,
            suppress_tokens=list(suppressed) or None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = result.sequences[0, -count:].tolist()
    return Continuation(tuple(tokens), torch.cat(result.logits).float().cpu())
