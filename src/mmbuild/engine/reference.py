"""The reference an engine is held against: transformers, on the model's own weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.engine.config import DTYPES, EngineError
from mmbuild.engine.processor import Request, first_line


@dataclass(frozen=True, slots=True)
class Continuation:
    """Greedy tokens of one request and the logits they were taken from.

    Attributes:
        tokens: N token ids.
        logits: float32 [N, vocab].
    """

    tokens: tuple[int, ...]
    logits: Tensor


def load_reference(model: Path, dtype: str, device: str) -> Any:
    """The model as transformers runs it, in ``dtype`` on ``device``.

    Raises:
        EngineError: transformers cannot load ``model``.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(
            model, dtype=DTYPES[dtype], local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise EngineError(
            f"transformers cannot load `{model}`: {first_line(error)}",
            code="MM563",
            hint="Give the model directory that the engine was built from with --model",
        ) from error
    # Answers are compared over their full length: no token ends one.
    loaded.generation_config.eos_token_id = None
    return loaded.to(device).eval()


def continue_greedily(reference: Any, request: Request, count: int) -> Continuation:
    """``count`` greedy tokens after ``request``, end tokens or not."""
    ids = torch.tensor([request.ids], device=reference.device)
    images = (
        {}
        if not request.pixels.numel()
        else {"pixel_values": request.pixels.to(reference.device, reference.dtype)}
    )
    with torch.inference_mode():
        result = reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **images,
            do_sample=False,
            num_beams=1,
            max_new_tokens=count,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = result.sequences[0, ids.shape[1] :].tolist()
    return Continuation(tuple(tokens), torch.cat(result.logits).float().cpu())
