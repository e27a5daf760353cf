"""The shipped BLIP-2 models, by transformers alone: what the engines are measured against."""

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, Blip2ForConditionalGeneration

import demo_worlds
from support.marks import slow_except
from training import blip2, drawing

MODELS = Path(demo_worlds.__file__).parents[1] / "examples" / "models"
FAMILIES = ["blip2-opt", "blip2-t5"]
QUESTIONS, WANTED = 40, 38


def folder(family: str) -> Path:
    return MODELS / demo_worlds.MODELS[family]


def pixels(family: str):  # type: ignore[no-untyped-def]
    return drawing.normalizer(blip2.make_processor(family).image_processor, "cpu")


@pytest.mark.parametrize("family", slow_except(FAMILIES, "blip2-opt"))
def test_it_answers_about_combinations_it_was_never_trained_on(family: str) -> None:
    processor = AutoProcessor.from_pretrained(folder(family))
    model = Blip2ForConditionalGeneration.from_pretrained(folder(family), dtype=torch.float32).eval()
    right = 0
    for requested in demo_worlds.ask(family, 990_011, QUESTIONS, held_out=True):
        batch = processor(text=requested.prompt, images=requested.pictures[0], return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=12, do_sample=False)[0]
        if family == "blip2-opt":
            ids = ids[batch["input_ids"].shape[1] :]
        assert ids[-1] == processor.tokenizer.eos_token_id
        right += processor.tokenizer.decode(ids, skip_special_tokens=True) == requested.answer
    assert right >= WANTED


@pytest.mark.extended  # 4 s each, of the shipped files alone
@pytest.mark.parametrize(
    ("family", "precision", "levels"),
    [("blip2-opt", "fp16", None), ("blip2-opt", "fp16", "int4"), ("blip2-t5", "bf16", None)],
)
def test_it_answers_in_the_precisions_of_its_engines(family: str, precision: str, levels: str | None) -> None:
    tokenizer = AutoProcessor.from_pretrained(folder(family)).tokenizer
    exam = blip2.make_data(family, 990_012, QUESTIONS, tokenizer, held_out=True)
    model = blip2.load(folder(family), precision, levels, "cpu")
    assert blip2.examine(model, exam, pixels(family))["all"] >= 93
    assert blip2.examine(model, exam, pixels(family), blank=True)["all"] <= 35


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exam_asks_as_the_processor_and_the_model_do(family: str) -> None:
    processor = AutoProcessor.from_pretrained(folder(family))
    model = Blip2ForConditionalGeneration.from_pretrained(folder(family), dtype=torch.float32).eval()
    requested = demo_worlds.ask(family, 990_013, 1, held_out=False)[0]
    batch = processor(text=requested.prompt, images=requested.pictures[0], return_tensors="pt")
    small = torch.from_numpy(drawing.shrunk(requested.pictures[0], blip2.IMAGE).copy())[None]
    assert torch.allclose(pixels(family)(small), batch["pixel_values"], atol=1e-5)

    texts, number = (
        [[(blip2.PROMPT.format(requested.question), requested.answer)]],
        processor.tokenizer.get_vocab(),
    )
    seen = batch["input_ids"][0, blip2.QUERIES :]
    if family == "blip2-opt":
        ids, labels = drawing.causal_rows(texts, number, begin="</s>", length=blip2.TEXT_LENGTH)
        required = model(**batch).logits[0, blip2.QUERIES :]
    else:
        ids, labels = drawing.encoder_rows(texts, number, length=blip2.QUESTION_LENGTH, answer_length=12)
        reported = labels[0][labels[0] != -100][None]
        required = model(**batch, labels=reported).logits[0]
    logits = blip2.answer_logits(model, batch["pixel_values"], ids, labels)[0, 0]
    assert torch.equal(ids[0, 0, : len(seen)], seen)
    assert torch.allclose(logits[: len(required)], required, atol=1e-4)


def test_t5_has_its_own_head_and_opt_does_not() -> None:
    t5 = Blip2ForConditionalGeneration.from_pretrained(folder("blip2-t5"), dtype=torch.float32).language_model
    assert not torch.equal(t5.lm_head.weight, t5.shared.weight)
    assert not t5.config.scale_decoder_outputs
    assert t5.config.decoder_start_token_id == t5.config.pad_token_id
    opt = Blip2ForConditionalGeneration.from_pretrained(
        folder("blip2-opt"), dtype=torch.float32
    ).language_model
    assert opt.lm_head.weight is opt.model.decoder.embed_tokens.weight
    assert opt.config.do_layer_norm_before


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_small_enough_to_ship(family: str) -> None:
    assert sum(path.stat().st_size for path in folder(family).iterdir()) <= 4_000_000
