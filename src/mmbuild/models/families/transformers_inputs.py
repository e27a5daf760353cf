"""Preprocesses a question with transformers, for the reference in comparisons.

This shares no code with the engine's preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmbuild.models.families.processor import Request

# Converts a question (None if the model takes none) and RGB images (PIL) to inputs of `generate`.
Inputs = Callable[[str | None, Sequence[Any]], Request]


def request(batch: Any) -> Request:
    """The first row of a processor's batch."""
    pixels = batch.get("pixel_values")
    return Request(
        tuple(batch["input_ids"][0].tolist()), torch.empty(0) if pixels is None else pixels.float()
    )


def encode_chat(processor: Any, question: str, pictures: Sequence[Any]) -> Request:
    """Apply the chat template of a transformers processor that supports image tokens to ``question``.

    A question with image tokens is a complete prompt. If the template takes text instead of a list of parts, the
    image tokens are put before the text, one per line.
    """
    token = processor.image_token
    if token in question:
        return request(processor(text=question, images=list(pictures) or None, return_tensors="pt"))
    parts = [{"type": "image", "image": picture} for picture in pictures]
    turn = {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
    if takes_parts(processor.apply_chat_template, token):
        return request(
            processor.apply_chat_template(
                [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )
    plain = {"role": "user", "content": f"{token}\n" * len(pictures) + question}
    text = processor.apply_chat_template([plain], add_generation_prompt=True, tokenize=False)
    begun = bool(processor.tokenizer.bos_token) and text.startswith(processor.tokenizer.bos_token)
    return request(
        processor(text=text, images=list(pictures) or None, add_special_tokens=not begun, return_tensors="pt")
    )


_PROBE = "31415926535897"  # survives templates that trim or change letter case


def takes_parts(apply_chat_template: Callable[..., str], image_token: str, **options: Any) -> bool:
    """Whether a template takes content as a list of parts, tested with a neutral question about one image.

    Args:
        apply_chat_template: Method of a processor or tokenizer of transformers.
        image_token: What names a picture in a prompt.
        options: Passed on.
    """
    content = [{"type": "image"}, {"type": "text", "text": _PROBE}]
    try:
        text = apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, **options
        )
    except Exception:  # a template can raise any exception
        return False
    shows_list = f"'text': '{_PROBE}'" in text or f'"text": "{_PROBE}"' in text
    return _PROBE in text and text.count(image_token) == 1 and not shows_list
