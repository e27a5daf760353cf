"""Preprocesses Nougat's pages with transformers; one start token and detection of repetition.

A page is cropped to its content, scaled to fit the tower's size, and padded (``NougatImageProcessorPil``). The
unknown token is never generated (``bad_words_ids`` in Nougat's decoding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.models.errors import EngineError
from mmbuild.models.families.nougat import facts as read_facts
from mmbuild.models.families.processor import Processor, Request
from mmbuild.models.families.shared import dummy_tokenizer, hugging_face
from mmbuild.models.families.shared.config_reading import saved_configs
from mmbuild.models.repetition_detector import Repetition


def load(directory: Path) -> Processor:
    """Load the processor from ``directory``.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    start = read_facts(saved_configs(directory)[0]).llm.decoder_start_token_id
    assert start is not None
    loaded = hugging_face.saved_processor(directory)

    def encode(prompt: str | None, pictures: Sequence[Any]) -> Request:  # noqa: ARG001 (takes no text)
        if len(pictures) != 1:
            raise EngineError(
                f"{len(pictures)} pictures are given, and the model reads one page at a time",
                code="MM518",
                hint="give one picture for each answer",
            )
        pixels = hugging_face.pixels_of(loaded.image_processor, pictures)
        return Request(ids=(start,), pixels=pixels)

    # transformers looks for the id of an empty token without end.
    unknown = loaded.tokenizer.unk_token_id if loaded.tokenizer.unk_token else None
    return Processor(
        loaded.tokenizer,
        encode,
        takes_text=False,
        suppressed_token_ids=() if unknown is None else (unknown,),
        repetition=Repetition(),
    )


def write_stand_in(config: Mapping[str, Any], out: Path) -> None:
    """Write a byte-level tokenizer, and the model's image preprocessing."""
    from transformers import NougatImageProcessorPil, NougatProcessor, NougatTokenizer

    facts = read_facts(config)
    height, width = facts.visual.image_size
    plain = dummy_tokenizer.tokenizer(
        facts.llm.vocab_size,
        {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3},
        template="<s> $A </s>",
        pad="<pad>",
    )
    tokenizer = NougatTokenizer(tokenizer_object=plain.backend_tokenizer)
    images = NougatImageProcessorPil(size={"height": height, "width": width})
    NougatProcessor(images, tokenizer).save_pretrained(out)
