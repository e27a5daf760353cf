"""The shipped Nougat, by transformers alone: what the engines are measured against."""

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, VisionEncoderDecoderModel

import demo_worlds
from training.nougat import distance

DEMO = Path(demo_worlds.__file__).parents[1] / "examples" / "models" / "nougat-pages"
PAGES = 20


@pytest.mark.slow  # 4 s each, of the shipped files alone
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_it_reads_pages_of_words_it_was_never_trained_on(dtype: torch.dtype) -> None:
    processor = AutoProcessor.from_pretrained(DEMO)
    model = VisionEncoderDecoderModel.from_pretrained(DEMO, dtype=dtype).eval()
    requested = demo_worlds.ask("nougat", 990_031, PAGES, held_out=True)
    pixels = processor([a.pictures[0] for a in requested], return_tensors="pt")["pixel_values"].to(dtype)
    ids = model.generate(pixel_values=pixels, do_sample=False)
    assert ids.shape[1] < model.generation_config.max_length  # every page came to its end
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    wrong = sum(distance(text, a.answer) for text, a in zip(texts, requested, strict=True))
    assert wrong <= 0.04 * sum(len(a.answer) for a in requested)


def test_a_blank_page_is_not_read_as_text_of_the_exam() -> None:
    processor = AutoProcessor.from_pretrained(DEMO)
    model = VisionEncoderDecoderModel.from_pretrained(DEMO, dtype=torch.float32).eval()
    requested = demo_worlds.ask("nougat", 990_032, 1, held_out=True)[0]
    blank = requested.pictures[0].point(lambda _: 240)
    pixels = processor(blank, return_tensors="pt")["pixel_values"]
    text = processor.batch_decode(
        model.generate(pixel_values=pixels, do_sample=False), skip_special_tokens=True
    )[0]
    assert distance(text, requested.answer) > 0.5 * len(requested.answer)


def test_it_is_laid_out_as_nougat() -> None:
    model = VisionEncoderDecoderModel.from_pretrained(DEMO, dtype=torch.float32)
    decoder = model.config.decoder
    assert (model.config.encoder.model_type, decoder.model_type) == ("donut-swin", "mbart")
    assert decoder.scale_embedding
    assert decoder.add_cross_attention
    assert decoder.is_decoder
    assert decoder.max_position_embeddings >= 256


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 4_000_000
