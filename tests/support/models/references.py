"""transformers as the reference for more than greedy tokens: beam search, a model's generation settings, and a model
whose weights are rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmbuild.models.families.processor import Request
from mmbuild.models.families.reference import arguments


def beam_search(
    reference: Any,
    request: Request,
    *,
    width: int,
    tokens: int,
    ends: Sequence[int],
    suppressed: Sequence[int] = (),
    penalty: float = 1.0,
) -> list[int]:
    """The sequence that transformers finds, without its end token."""
    with torch.inference_mode():
        found = reference.generate(
            **arguments(reference, request),
            do_sample=False,
            num_beams=width,
            length_penalty=penalty,
            early_stopping=False,
            max_new_tokens=tokens,
            eos_token_id=list(ends),
            forced_eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=list(suppressed) or None,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = found.sequences[0, -int((found.beam_indices[0] >= 0).sum()) :].tolist()
    return new[: next((place for place, token in enumerate(new) if token in ends), len(new))]


def settled(
    reference: Any, request: Request, settings: Mapping[str, Any], tokens: int, **options: Any
) -> list[int]:
    """The new tokens that transformers generates where ``settings`` are the model's generation config, without the
    end token that ends them.

    Args:
        reference: From :func:`mmbuild.models.families.reference.load_reference`.
        request: What is asked.
        settings: As generation_config.json has them.
        tokens: As ``max_new_tokens``.
        options: More of ``generate``'s arguments.
    """
    from transformers import GenerationConfig

    # BLIP-2 hands over to its language model, VILA's decoder is one.
    inner = getattr(reference, "language_model", None) or getattr(reference, "llm", None) or reference
    before = inner.generation_config
    inner.generation_config = GenerationConfig.from_dict({"pad_token_id": 0, **settings})
    try:
        with torch.inference_mode():
            found = reference.generate(
                **arguments(reference, request),
                do_sample=False,
                max_new_tokens=tokens,
                return_dict_in_generate=True,
                output_logits=True,
                **{"num_beams": 1, **options},
            )
    finally:
        inner.generation_config = before
    searched = options.get("num_beams", 1) > 1
    count = int((found.beam_indices[0] >= 0).sum()) if searched else len(found.logits)
    new: list[int] = found.sequences[0, found.sequences.shape[1] - count :].tolist()
    ends = settings.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return new[:-1] if new and new[-1] in ends else new


@contextmanager
def rounded(reference: Any, layers: str, levels: int) -> Iterator[None]:
    """While it lasts, the linear layers whose names hold ``layers`` have weights of ``2 * levels`` values a row."""
    linear = [
        module
        for name, module in reference.named_modules()
        if layers in name and isinstance(module, torch.nn.Linear)
    ]
    assert linear, f"no layer is called {layers}"
    kept = [module.weight.detach().clone() for module in linear]
    with torch.no_grad():
        for module in linear:
            module.weight.copy_(torch.from_numpy(weight_only(module.weight.numpy(), levels)))
        try:
            yield
        finally:
            for module, weight in zip(linear, kept, strict=True):
                module.weight.copy_(weight)


def weight_only(weight: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """TensorRT-LLM's rounding in numpy: per output channel, half away from zero, float32."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(levels)
    ratio = weight / scale
    whole = np.sign(ratio) * np.floor(np.abs(ratio) + np.float32(0.5))
    return np.clip(whole, -levels, levels - 1).astype(np.float32) * scale
