"""What Nougat's training and exam rest on: they see pages, text and model as the processor and generate do."""

import numpy as np
import pytest
import torch

import demo_worlds
import pages_world
from training import nougat


@pytest.fixture(scope="module")
def processor():  # type: ignore[no-untyped-def]
    return nougat.make_processor()


def test_pages_are_what_the_processor_makes_of_pictures(processor) -> None:  # type: ignore[no-untyped-def]
    data = nougat.make_data(5, 3, processor.tokenizer, held_out=False, lines=(4,), length=nougat.LENGTH)
    seen = nougat.normalizer("cpu")(data.pages)
    rng = np.random.default_rng(5)
    for row in range(3):
        page = pages_world.draw_page(rng, held_out=False, lines=(4,))
        required = processor(pages_world.draw_picture(page, rng), return_tensors="pt")["pixel_values"]
        assert pages_world.markup(page) == data.markup[row]
        assert torch.allclose(seen[row], required[0], atol=1e-4)


def test_labels_are_the_tokenizers_ids_and_decode_to_the_markup(processor) -> None:  # type: ignore[no-untyped-def]
    data = nougat.exam_data(processor.tokenizer)
    for labels, markup in zip(data.labels[:10], data.markup, strict=False):
        ids = labels[labels != -100].tolist()
        assert [nougat.BOS, *ids] == processor.tokenizer(markup)["input_ids"]
        assert processor.tokenizer.decode(ids, skip_special_tokens=True) == markup


def test_every_character_is_a_token_and_special_ids_are_nougats(processor) -> None:  # type: ignore[no-untyped-def]
    tokenizer = processor.tokenizer
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for character in pages_world.characters():
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        assert ids[0] > tokenizer.unk_token_id


def test_the_loss_sees_the_logits_of_the_whole_model(processor) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    model = nougat.make_model(processor.tokenizer).eval()
    data = nougat.make_data(6, 2, processor.tokenizer, held_out=False, lines=(1,), length=40)
    images = nougat.normalizer("cpu")(data.pages)
    with torch.no_grad():
        logits = nougat.answer_logits(model, images, data.labels)
        required = model(pixel_values=images, labels=data.labels).logits
    for row in range(2):
        requested = data.labels[row] != -100
        assert torch.allclose(logits[row][requested], required[row][requested], atol=1e-4)


def test_the_exam_shows_pages_of_held_out_words_only(processor) -> None:  # type: ignore[no-untyped-def]
    exam = nougat.exam_data(processor.tokenizer)
    assert len(exam.markup) == nougat.EXAM_PAGES
    for markup in exam.markup:
        bare = markup.translate(str.maketrans("", "", "#*" + pages_world.MARKS))
        assert all(pages_world.held_out_word(word) for word in bare.split())


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_distance_counts_edits(a: str, b: str, edits: int) -> None:
    assert nougat.distance(a, b) == nougat.distance(b, a) == edits


def test_the_world_asks_nougat_for_markup() -> None:
    requested = demo_worlds.ask("nougat", 1, 1, held_out=True)[0]
    assert requested.pictures[0].size == (pages_world.WIDTH, pages_world.HEIGHT)
