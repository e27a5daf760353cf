"""Texts and pictures: English that comes with every Python, cut into passages by the model's own tokenizer."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FITTED, SCORED = 192, 448
"""Tokens of a passage for fitting, and of one that is scored."""
SAMPLES = 64
"""Passages for fitting."""

_HEAD = "<image>\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """What scales are fitted on: a picture and a passage.

    Attributes:
        picture: Picture file.
        prompt: The image token and the passage.
    """

    picture: Path
    prompt: str


@dataclass(frozen=True, slots=True)
class Passages:
    """What is scored: features of a picture, a line break, a passage.

    Attributes:
        ids: Token ids, int64 [passages, tokens], with the image tokens.
        pixels: Prepared pictures, float32 [passages, 3, height, width].
    """

    ids: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Arguments of transformers' model."""
        for ids, pixels in zip(self.ids.split(size), self.pixels.split(size), strict=True):
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def corpus() -> str:
    """Documentation of Python's language and types, from ``pydoc``, without paragraphs that are mostly code."""
    from pydoc_data.topics import topics

    paragraphs = [part.strip() for name in sorted(topics) for part in topics[name].split("\n\n")]
    unique = dict.fromkeys(paragraphs)  # topics repeat each other
    return "\n\n".join(part for part in unique if len(re.findall(r"\b[a-z]{3,}\b", part)) >= 12)


def make(model: Path, pictures: Sequence[Path], tokens: int) -> tuple[list[Sample], Passages]:
    """Samples for fitting, and passages to score; no text is in both.

    Args:
        model: Model directory with tokenizer and processor.
        pictures: Pictures, used in turn.
        tokens: At least so many are scored.

    Raises:
        SystemExit: There is not enough text.
    """
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(model)
    ids = processor.tokenizer(corpus(), add_special_tokens=False)["input_ids"]
    first, needed = SAMPLES * FITTED, -(-tokens // SCORED)
    if first + needed * SCORED > len(ids):
        raise SystemExit(
            f"this Python's texts have {len(ids) - first} tokens to score, {tokens} are asked for"
        )
    turn = itertools.cycle(pictures)
    samples = [
        Sample(next(turn), _HEAD + processor.tokenizer.decode(part)) for part in _cut(ids, FITTED, SAMPLES)
    ]
    return samples, _passages(processor, _cut(ids[first:], SCORED, needed), pictures)


def _cut(ids: Sequence[int], length: int, count: int) -> list[Sequence[int]]:
    return [ids[start : start + length] for start in range(0, length * count, length)]


def _passages(processor: Any, texts: Sequence[Sequence[int]], pictures: Sequence[Path]) -> Passages:
    prepared = [inputs(processor, Sample(path, _HEAD)) for path in pictures]
    head = prepared[0]["input_ids"][0].tolist()
    turn = itertools.cycle(item["pixel_values"][0] for item in prepared)
    return Passages(
        torch.tensor([[*head, *text] for text in texts]),
        torch.stack(list(itertools.islice(turn, len(texts)))),
    )


def inputs(processor: Any, sample: Sample) -> Mapping[str, Tensor]:
    """Arguments of transformers' model, a batch of one."""
    from PIL import Image

    image = Image.open(sample.picture).convert("RGB")
    prepared: Mapping[str, Tensor] = processor(images=image, text=sample.prompt, return_tensors="pt")
    return prepared


def write_samples(to: Path, samples: Sequence[Sample]) -> None:
    """Write ``data.jsonl`` with pictures beside it, which mmbuild and the peers' environment read."""
    (to / "pictures").mkdir(parents=True, exist_ok=True)
    for sample in samples:
        shutil.copy(sample.picture, to / "pictures" / sample.picture.name)
    lines = [
        json.dumps({"image": f"pictures/{sample.picture.name}", "prompt": sample.prompt})
        for sample in samples
    ]
    (to / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_samples(file: Path) -> list[Sample]:
    """What :func:`write_samples` wrote."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [Sample(file.parent / line["image"], line["prompt"]) for line in lines]
