"""The shipped LLaVA, by transformers alone: what the engines are measured against."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

import shapes_world as world
from training import exam as marks
from training import llava, rounding

DEMO = Path(world.__file__).parents[1] / "examples" / "models" / "llava-shapes"
PICTURES = 60


@pytest.fixture(scope="module")
def processor():  # type: ignore[no-untyped-def]
    return AutoProcessor.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def exam(processor):  # type: ignore[no-untyped-def]
    """Pictures of a seed that neither training nor the README's exam used, all of held-out combinations."""
    return llava.make_data(990_001, PICTURES, processor.tokenizer, held_out=True)


def model(levels: int | None) -> LlavaForConditionalGeneration:
    loaded = LlavaForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float16).eval()
    if levels:
        rounding.round_in_place(rounding.decoder_linears(loaded), levels)
    return loaded


# Of the shipped files alone: no change of src makes a difference. The engines' answers: e2e/test_exam.py.
@pytest.mark.extended
@pytest.mark.parametrize("levels", [None, 8], ids=["fp16", "int4"])
def test_it_answers_about_combinations_it_was_never_trained_on(processor, exam, levels) -> None:  # type: ignore[no-untyped-def]
    shares = llava.examine(model(levels), exam, processor, "cpu", blank=False)
    assert shares["all"] >= 95


@pytest.mark.slow
def test_without_the_picture_it_knows_next_to_nothing(processor, exam) -> None:  # type: ignore[no-untyped-def]
    assert llava.examine(model(None), exam, processor, "cpu", blank=True)["all"] <= 35
    seen = llava.make_data(990_002, 500, processor.tokenizer, held_out=False)
    assert marks.majority(seen.asked, exam.asked)["all"] <= 35


def test_a_plain_question_through_the_chat_template_and_generate(processor) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(990_003)
    scene = world.draw_scene(rng, held_out=True)
    content = [{"type": "image"}, {"type": "text", "text": "How many shapes are there?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == "<image> question: How many shapes are there? answer:"
    batch = processor(text=text, images=world.draw_picture(scene, rng), return_tensors="pt")
    batch["pixel_values"] = batch["pixel_values"].half()
    ids = model(None).generate(**batch, max_new_tokens=8, do_sample=False)
    answer = processor.tokenizer.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == world.NUMBERS[len(scene.cells) - 1]


def test_training_and_exam_see_pictures_as_the_processor_makes_them(processor) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image

    rng = np.random.default_rng(990_004)
    picture = world.draw_picture(world.draw_scene(rng, held_out=False), rng)
    small = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC))[None]
    required = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    assert torch.allclose(llava.pixels(small, processor, "cpu"), required, atol=1e-4)


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 4_000_000
