"""Prompts and images of every family, against transformers' processors and a reimplementation of VILA's rules."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Blip2Processor, NougatProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import Processor, Request, encode, load_processor
from support.marks import slow_except
from support.models import tiny_families as tiny
from support.models.directories import edit

BLIP2 = ["blip2-opt", "blip2-t5"]
EXAMPLES = Path(__file__).parents[3] / "examples" / "models"


def picture(seed: int, width: int = 0, height: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    size = (height or int(rng.integers(20, 60)), width or int(rng.integers(20, 60)), 3)
    return Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8))


def theirs(directory: Path, **options: Any) -> Any:
    return AutoImageProcessor.from_pretrained(directory, backend="pil", **options)


def small_files(sources: dict[str, Path], out: Path) -> Path:
    """What an engine keeps of two sources: small files, those of the second in ``vision/``."""
    for source, directory in sources.items():
        place = out if source == "model" else out / source
        place.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("*.json"):
            (place / file.name).write_bytes(file.read_bytes())
    return out


@pytest.mark.parametrize("family", BLIP2)
@pytest.mark.parametrize("prompt", ["Question: what is it? Answer:", "", "a photo of"])
def test_blip2_encodes_as_transformers_does(family: str, prompt: str, tmp_path: Path) -> None:
    tiny.save_model(family, 1, tmp_path)
    shown = picture(1)
    processor = load_processor(tmp_path, family)
    found = encode(processor, prompt, [shown])
    facts = tiny.facts(family, {"model": tmp_path})

    whole = Blip2Processor(theirs(tmp_path), load_processor(tmp_path, family).tokenizer)
    whole.num_query_tokens = facts.visual.num_visual_features
    expected = whole(images=shown, text=prompt, return_tensors="pt")
    # transformers adds the token behind the tokenizer's; the model's config has its own id for it.
    added = whole.tokenizer.convert_tokens_to_ids("<image>")
    ids = [facts.image_token_id if token == added else token for token in expected["input_ids"][0].tolist()]
    assert list(found.ids) == ids
    assert torch.equal(found.pixels, expected["pixel_values"])


@pytest.mark.parametrize("family", BLIP2)
def test_two_sources_speak_with_the_first_and_see_with_the_second(family: str, tmp_path: Path) -> None:
    sources = tiny.save_in_two(family, 1, tmp_path)
    for name in ("config.json", "tokenizer.json"):
        assert (sources["model"] / name).is_file()
    assert not (sources["model"] / "preprocessor_config.json").is_file()
    (sources["vision"] / "tokenizer.json").unlink()  # must not be looked at
    processor = load_processor(small_files(sources, tmp_path / "small"), family)
    found = encode(processor, "hello", [picture(2)])
    facts = tiny.facts(family, sources)
    count = facts.visual.num_visual_features
    assert found.ids[:count] == (facts.image_token_id,) * count
    assert processor.tokenizer.decode(found.ids[count:], skip_special_tokens=True) == "hello"
    assert found.pixels.shape == (1, 3, *facts.visual.image_size)


@pytest.mark.parametrize("family", slow_except(BLIP2, "blip2-opt"))
def test_blip2_looks_at_one_picture_in_front_of_the_text(family: str, tmp_path: Path) -> None:
    tiny.save_model(family, 1, tmp_path)
    processor = load_processor(tmp_path, family)
    refused(processor, "what?", [picture(1), picture(2)], "2 pictures")
    assert encode(processor, "text alone", []).pixels.numel() == 0
    special = processor.tokenizer.convert_ids_to_tokens(tiny.VOCABULARY - 1)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [special]})
    refused(processor, f"{special} what?", [picture(1)], "image token")


def refused(processor: Processor, prompt: str | None, pictures: list[Image.Image], words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        encode(processor, prompt, pictures)
    assert caught.value.code == "MM518"


def test_nougat_reads_a_page_as_transformers_prepares_it(tmp_path: Path) -> None:
    tiny.save_model("nougat", 2, tmp_path)
    processor = load_processor(tmp_path, "nougat")
    page = Image.new("RGB", (70, 90), "white")
    page.paste((0, 0, 0), (20, 30, 50, 40))
    found = encode(processor, None, [page])
    whole = NougatProcessor(theirs(tmp_path), processor.tokenizer)
    facts = tiny.facts("nougat", {"model": tmp_path})
    assert found.ids == (facts.llm.decoder_start_token_id,)
    assert torch.equal(found.pixels, whole(images=page, return_tensors="pt")["pixel_values"])
    assert found.pixels.shape == (1, 3, *facts.visual.image_size)
    assert processor.suppressed_token_ids == (processor.tokenizer.unk_token_id,)
    assert processor.repetition is not None


@pytest.mark.parametrize(("unknown", "suppressed"), [("<unk>", (3,)), ("", ()), (None, ())])
def test_nougat_suppresses_the_unknown_token_if_there_is_one(
    unknown: str | None, suppressed: tuple[int, ...], tmp_path: Path
) -> None:
    tiny.save_model("nougat", 2, tmp_path)
    edit(tmp_path / "tokenizer_config.json", unk_token=unknown)
    assert load_processor(tmp_path, "nougat").suppressed_token_ids == suppressed


def test_nougat_takes_one_page_and_no_question(tmp_path: Path) -> None:
    tiny.save_model("nougat", 2, tmp_path)
    processor = load_processor(tmp_path, "nougat")
    refused(processor, "what?", [picture(1)], "no question")
    refused(processor, None, [picture(1), picture(2)], "one page")
    refused(processor, None, [], "one page")


def spelt(processor: Processor, found: Request, features: int) -> str:
    """The ids as text, every run of a picture's placeholders as ``@``."""
    pieces: list[int] = []
    text, left = "", list(found.ids)
    while left:
        if left[0] == -200:
            assert left[:features] == [-200] * features
            text, pieces, left = text + processor.tokenizer.decode(pieces) + "@", [], left[features:]
        else:
            pieces.append(left.pop(0))
    return text + processor.tokenizer.decode(pieces)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_vila_asks_in_the_form_of_vicuna(images: int, tmp_path: Path) -> None:
    sources = tiny.save_vila(1, tmp_path)
    processor = load_processor(tmp_path, "vila")
    found = encode(processor, "What is it?", [picture(i) for i in range(images)])
    features = tiny.facts("vila", sources).visual.num_visual_features
    assert spelt(processor, found, features) == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: "
        + "@\n" * images
        + "What is it? ASSISTANT:"
    )


@pytest.mark.parametrize("place", ["llm", "."])
def test_vila_prefers_the_models_own_chat_form(place: str, tmp_path: Path) -> None:
    sources = tiny.save_vila(1, tmp_path)
    template = (
        "{% for m in messages %}Q:{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}"
        "{% endif %}{% endfor %}{% endfor %} A:"
    )
    (tmp_path / place / "chat_template.jinja").write_text(template)
    processor = load_processor(tmp_path, "vila")
    features = tiny.facts("vila", sources).visual.num_visual_features
    found = encode(processor, "which?", [picture(1), picture(2)])
    assert spelt(processor, found, features) == "<s>Q:@@which? A:"
    complete = encode(processor, "a <image> b <image> c", [picture(1), picture(2)])
    assert spelt(processor, complete, features) == "<s>a @ b @ c"
    refused(processor, "a <image>", [picture(1), picture(2)], "names 1 images, and 2 are given")


@pytest.mark.parametrize("aspect", ["resize", "pad", "default"])
@pytest.mark.parametrize("layout", ["directories", "flat"])
def test_vila_shapes_pictures_as_its_config_says(aspect: str, layout: str, tmp_path: Path) -> None:
    if layout == "directories":
        sources = tiny.save_vila(1, tmp_path / "model")
        directory, eyes = sources["model"], sources["model"] / "vision_tower"
    else:
        sources = tiny.save_flat_vila(1, tmp_path)
        directory, eyes = small_files(sources, tmp_path / "small"), sources["vision"]
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": aspect}))
    shown = picture(3, *random.Random(3).sample(range(20, 60), 2))
    found = encode(load_processor(directory, "vila"), "what?", [shown])

    images = theirs(eyes)
    side = tiny.facts("vila", sources).visual.image_size[0]
    prepared = shown
    if aspect == "resize":
        prepared = shown.resize((side, side))
    elif aspect == "pad":
        longest = max(shown.size)
        pixels = np.empty((longest, longest, 3), np.uint8)
        pixels[:] = [int(mean * 255) for mean in images.image_mean]
        top, left = (longest - shown.height) // 2, (longest - shown.width) // 2
        pixels[top : top + shown.height, left : left + shown.width] = np.asarray(shown)
        prepared = Image.fromarray(pixels)
    assert torch.equal(found.pixels, images(prepared, return_tensors="pt")["pixel_values"])
    assert found.pixels.shape == (1, 3, side, side)


@pytest.mark.parametrize("family", [*BLIP2, "nougat"])
def test_a_missing_processor_is_reported(family: str, tmp_path: Path) -> None:
    tiny.save_model(family, 1, tmp_path)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(EngineError) as caught:
        load_processor(tmp_path, family)
    assert caught.value.code == "MM516"


def test_a_tokenizer_that_needs_another_package_says_which(tmp_path: Path) -> None:
    tiny.save_vila(1, tmp_path)
    (tmp_path / "llm" / "tokenizer.json").unlink()
    (tmp_path / "llm" / "tokenizer.model").write_bytes(b"no SentencePiece file, with the package or without")
    (tmp_path / "llm" / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(EngineError) as caught:
        load_processor(tmp_path, "vila")
    assert caught.value.code == "MM516"
    assert "pip install sentencepiece protobuf" in str(caught.value.hint)


@pytest.mark.parametrize("family", BLIP2)
def test_the_demo_models_are_encoded_as_their_own_processors_do(family: str) -> None:
    model = EXAMPLES / f"{family}-shapes"
    whole = AutoProcessor.from_pretrained(model, backend="pil", local_files_only=True)
    assert whole.num_query_tokens == tiny.facts(family, {"model": model}).visual.num_visual_features
    prompt, shown = "Question: how many shapes ? Answer:", picture(5)
    found = encode(load_processor(model, family), prompt, [shown])
    expected = whole(images=shown, text=prompt, return_tensors="pt")
    assert list(found.ids) == expected["input_ids"][0].tolist()
    assert torch.equal(found.pixels, expected["pixel_values"])
