"""Preprocesses LLaVA's prompts and images; also has a stand-in processor for random models.

Tokenizer, chat template and image preprocessing are the model's, as read by transformers. The number of placeholders
per image is ``num_visual_features`` from ``config.json``: processor files before transformers 4.45 have neither
``patch_size`` nor ``num_additional_image_tokens``, and newer ones must agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmbuild.models.errors import EngineError
from mmbuild.models.families.llava import facts as read_facts
from mmbuild.models.families.llava import sections
from mmbuild.models.families.processor import Processor, Request
from mmbuild.models.families.shared import dummy_tokenizer, hugging_face
from mmbuild.models.families.shared.chat import Prompt, load_chat
from mmbuild.models.families.shared.config_reading import saved_config


def load(directory: Path) -> Processor:
    """Load the processor from ``directory``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read, or the tokenizer has no image token.
        TemplateError: MM730, the chat template cannot ask about a picture.
    """
    facts = read_facts(saved_config(directory))
    image = facts.image_token_id
    assert image is not None
    loaded = hugging_face.saved_processor(directory)
    tokenizer, features = loaded.tokenizer, facts.visual.num_visual_features
    token = image_token(tokenizer, image)
    _require_repeatable(tokenizer, token, image)
    chat = load_chat([directory], tokenizer, token, "mmbuild.models.families.llava", "processor")

    def finished(prompt: Prompt, pictures: Sequence[Any]) -> Request:
        if prompt.text.count(token) != len(pictures):
            raise EngineError(
                f"the prompt names {prompt.text.count(token)} images, and {len(pictures)} are given",
                code="MM518",
                hint=f"name each image in the prompt with one {token}, or none",
            )
        ids = _expanded(tokenizer, prompt, token, image, features)
        if not pictures:
            return Request(ids, torch.empty(0))
        return Request(ids, hugging_face.pixels_of(loaded.image_processor, pictures))

    return Processor(
        tokenizer,
        lambda question, pictures: finished(chat.prompt(question or "", len(pictures)), pictures),
        lambda text, pictures: finished(Prompt(text or ""), pictures),
        lambda turns, pictures: finished(chat.conversation(turns), pictures),
    )


def _expanded(tokenizer: Any, prompt: Prompt, token: str, token_id: int, features: int) -> tuple[int, ...]:
    """Ids of a prompt in which each image token is there ``features`` times.

    Raises:
        EngineError: MM518, the tokenizer does not recognize an image token in this prompt.
    """
    ids: list[int] = hugging_face.token_ids(
        tokenizer, prompt.text, add_special_tokens=prompt.add_special_tokens
    )
    if ids.count(token_id) != prompt.text.count(token):
        # Not a token to which the tokenizer cuts text, so what is around it matters.
        text = prompt.text.replace(token, token * features)
        ids = hugging_face.token_ids(tokenizer, text, add_special_tokens=prompt.add_special_tokens)
        if ids.count(token_id) != text.count(token):
            raise EngineError(
                f"the tokenizer does not recognize every {token} in this prompt",
                code="MM518",
                hint=f"put spaces around {token}: some tokenizers recognize it only as a separate word",
            )
        return tuple(ids)
    # Ids are repeated instead of text, which takes a twentieth of the time.
    counts = (features if one == token_id else 1 for one in ids)
    return tuple(one for one, count in zip(ids, counts, strict=True) for _ in range(count))


def _require_repeatable(tokenizer: Any, token: str, token_id: int) -> None:
    """Check that adjacent image tokens are recognized, as ``require_repeatable`` of validation does.

    Raises:
        EngineError: MM516.
    """
    if hugging_face.token_ids(tokenizer, token * 3, add_special_tokens=False) != [token_id] * 3:
        raise EngineError(
            f"the tokenizer does not recognize `{token * 3}` as three image tokens",
            code="MM516",
            hint=f"set `normalized` and `single_word` of {token} to false in the tokenizer's files",
        )


def image_token(tokenizer: Any, token_id: int | None) -> str:
    """The token that ``config.json`` defines for visual features.

    Raises:
        EngineError: MM516, the tokenizer has no such id.
    """
    # `convert_ids_to_tokens` returns an added token in its normalized form.
    added = tokenizer.added_tokens_decoder.get(token_id)
    token = added or (None if token_id is None else tokenizer.convert_ids_to_tokens(token_id))
    if token is None:
        raise EngineError(
            f"config.json gives images the token {token_id}, and the tokenizer has no such token",
            code="MM516",
            hint="take tokenizer and config.json from the same revision of the model",
        )
    return str(token)


def write_stand_in(config: Mapping[str, Any], out: Path) -> None:
    """Write a byte-level tokenizer, and the model's image preprocessing."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    facts, read = read_facts(config), sections(config)
    assert facts.image_token_id is not None
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": facts.image_token_id}
    side = facts.visual.image_size[0]
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        images,
        dummy_tokenizer.tokenizer(facts.llm.vocab_size, special),
        patch_size=read.tower["patch_size"],
        vision_feature_select_strategy=read.root["vision_feature_select_strategy"],
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(out)
