"""LLaVA's prompts and pictures: transformers' own processor, and a stand-in for random models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.engine.processor import Processor
from mmbuild.families.llava import facts as read_facts
from mmbuild.families.shared import hugging_face, stand_in


def load(directory: Path) -> Processor:
    """The processor saved in ``directory``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    return hugging_face.load_processor(directory)


def write_stand_in(config: Mapping[str, Any], out: Path) -> None:
    """A tokenizer that knows every byte, and the model's image preprocessing."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    facts = read_facts(config)
    assert facts.image_token_id is not None
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": facts.image_token_id}
    side = facts.visual.image_size[0]
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        images,
        stand_in.tokenizer(facts.llm.vocab_size, special),
        patch_size=int(config["vision_config"].get("patch_size", 32)),
        vision_feature_select_strategy=config.get("vision_feature_select_strategy", "default"),
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(out)
