"""Preprocesses VILA's prompts and images, without VILA's code.

Prompts are split at ``<image>``; each piece is encoded separately, with placeholders in between
(``tokenizer_image_token`` in github.com/NVlabs/VILA). A plain question is rendered with the decoder's chat template
if its tokenizer has one, else with that of Vicuna (``vicuna_v1``), with each image on a line before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import Processor, Request
from mmbuild.models.families.shared import dummy_tokenizer, hugging_face
from mmbuild.models.families.shared.chat import IMAGE, Prompt, load_chat
from mmbuild.models.families.shared.config_reading import saved_configs
from mmbuild.models.families.vila import IMAGE_TOKEN_ID, layout
from mmbuild.models.families.vila import facts as read_facts
from mmbuild.models.images import require_pixels


def load(directory: Path) -> Processor:
    """The processor of the small files in ``directory``, those of a second source in ``vision/``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
        TemplateError: MM730, the chat template cannot ask about a picture.
    """
    config, vision = saved_configs(directory)
    features = read_facts(config, vision).visual.num_visual_features
    read = layout.read(config, vision)
    inner = bool(read.directories)
    tokenizer = hugging_face.saved_tokenizer(directory / "llm" if inner else directory)
    images = hugging_face.saved_image_processor(directory / ("vision_tower" if inner else "vision"))
    places = [directory / "llm", directory] if inner else [directory]
    chat = load_chat(places, tokenizer, IMAGE, "mmbuild.models.families.vila", "tokenizer")

    def finished(prompt: Prompt, pictures: Sequence[Any]) -> Request:
        ids = _insert_images(tokenizer, prompt, (IMAGE_TOKEN_ID,) * features, len(pictures))
        if not pictures:
            return Request(ids, torch.empty(0))
        made = [shaped(picture, images, read.aspect) for picture in pictures]
        return Request(ids, hugging_face.pixels_of(images, made))

    return Processor(
        tokenizer,
        lambda question, pictures: finished(chat.prompt(question or "", len(pictures)), pictures),
        lambda text, pictures: finished(Prompt(text or ""), pictures),
        lambda turns, pictures: finished(chat.conversation(turns), pictures),
    )


def _insert_images(
    tokenizer: Any, prompt: Prompt, placeholders: tuple[int, ...], images: int
) -> tuple[int, ...]:
    """Token ids of ``prompt``, with ``placeholders`` for every ``<image>``.

    Raises:
        EngineError: MM518, the prompt names another number of pictures than ``images``.
    """
    texts = prompt.text.split(IMAGE)
    if len(texts) - 1 != images:
        raise EngineError(
            f"the prompt names {len(texts) - 1} images, and {images} are given",
            code="MM518",
            hint=f"name each image in the prompt with one {IMAGE}, or none",
        )
    add = prompt.add_special_tokens
    pieces = [hugging_face.token_ids(tokenizer, text, add_special_tokens=add) for text in texts]
    # Every piece is encoded with a BOS token, which only the first one keeps.
    begun = 1 if prompt.add_special_tokens and pieces[0][:1] == [tokenizer.bos_token_id] else 0
    ids = list(pieces[0])
    for piece in pieces[1:]:
        ids += [*placeholders, *piece[begun:]]
    return tuple(ids)


def shaped(picture: Any, images: Any, aspect: str) -> Any:
    """Prepare an image that is not square as in training, before the tower's preprocessing."""
    from PIL import Image

    if aspect == "resize":
        size = getattr(images, "crop_size", None) or images.size
        return picture.resize((int(size["width"]), int(size["height"])))
    if aspect == "pad" and picture.width != picture.height:
        side = max(picture.size)
        require_pixels(side, side)
        mean = images.image_mean
        channels = mean if isinstance(mean, Sequence) else (mean,) * 3
        colour = tuple(int(float(channel) * 255) for channel in channels)
        canvas = Image.new(picture.mode, (side, side), colour)
        canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return canvas
    return picture


def write_stand_in(config: Mapping[str, Any], out: Path) -> None:
    """Write a byte-level tokenizer, and the tower's image preprocessing.

    Args:
        config: Of the model, in either layout, or of its second source.
        out: An existing directory.
    """
    if "llm_cfg" in config:
        _write_tokenizer(config["llm_cfg"], out / "llm")
        _write_images(config["vision_tower_cfg"], out / "vision_tower")
    elif "mm_projector_type" in config or "mm_vision_tower" in config:
        _write_tokenizer(config, out)
    else:
        _write_images(config.get("vision_config", config), out)


def _write_tokenizer(text: Mapping[str, Any], out: Path) -> None:
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    dummy_tokenizer.tokenizer(int(text.get("vocab_size", 32000)), special).save_pretrained(out)


def _write_images(tower: Mapping[str, Any], out: Path) -> None:
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    side = int(tower.get("image_size", 224))
    square = {"height": side, "width": side}
    if tower.get("model_type") == "siglip_vision_model":
        SiglipImageProcessorPil(size=square).save_pretrained(out)
    else:
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square).save_pretrained(out)
