"""Prompts and pictures of BLIP-2 with Flan-T5: see :mod:`mmbuild.models.families.shared.blip2_processor`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.models.families.blip2_t5 import facts as read_facts
from mmbuild.models.families.shared import blip2_processor
from mmbuild.models.processor import Processor


def load(directory: Path) -> Processor:
    """The processor of the files in ``directory``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    return blip2_processor.load(directory, read_facts)


def write_stand_in(config: Mapping[str, Any], out: Path) -> None:
    """A tokenizer that knows every byte, with T5's special tokens, and BLIP-2's image preprocessing."""
    special = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<s>": 3}
    blip2_processor.write_stand_in(config, out, special, "$A </s>", "<pad>")
