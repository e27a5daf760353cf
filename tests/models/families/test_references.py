"""References that transformers has no class for: two sources, VILA; and what keeps answers going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Blip2ForConditionalGeneration

from mmbuild.models.errors import EngineError
from mmbuild.models.families import part
from mmbuild.models.families.processor import Request
from mmbuild.models.families.reference import answer_greedily, arguments, load_inputs
from support.errors import refused
from support.models import tiny_families as tiny
from support.models.directories import edit

STEPS = 5


def request(family: str, sources: dict[str, Path], images: int = 1) -> Request:
    """Text, and pictures in the middle of it."""
    facts = tiny.facts(family, sources)
    generator = torch.Generator().manual_seed(1)
    assert facts.image_token_id is not None
    pixels = torch.randn(images, 3, *facts.visual.image_size, generator=generator)
    pictures = [facts.image_token_id] * facts.visual.num_visual_features
    ids = [7, *(token for _ in range(images) for token in (*pictures, 9)), 11, 12]
    return Request(tuple(ids), pixels)


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5"])
@torch.inference_mode()
def test_the_text_model_speaks_and_the_second_source_sees(family: str, tmp_path: Path) -> None:
    sources = tiny.save_in_two(family, 2, tmp_path)
    reference = part(family, "reference").load(sources, torch.float32, "cpu")
    requested = request(family, sources)
    ids, pixels = torch.tensor([requested.ids]), requested.pixels
    result = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=STEPS,
        do_sample=False,
    )

    auto = AutoModelForCausalLM if family == "blip2-opt" else AutoModelForSeq2SeqLM
    text = auto.from_pretrained(sources["model"]).eval()
    eyes = Blip2ForConditionalGeneration.from_pretrained(sources["vision"]).eval()
    embedded = text.get_input_embeddings()(ids)
    features = eyes.get_image_features(pixels).pooler_output
    place = torch.tensor(requested.ids).eq(tiny.VOCABULARY - 1)
    embedded[0, place] = features[0]
    text.generation_config.eos_token_id = None
    expected = text.generate(
        inputs_embeds=embedded, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False
    )
    assert result[0, -STEPS:].tolist() == expected[0, -STEPS:].tolist()


@pytest.mark.parametrize(("layout", "images"), [("directories", 2), ("flat", 1), ("trained", 1)])
@torch.inference_mode()
def test_vila_sees_what_its_visual_side_makes_of_pictures(layout: str, images: int, tmp_path: Path) -> None:
    if layout == "directories":
        sources = tiny.save_vila(4, tmp_path)
    else:
        sources = tiny.save_flat_vila(4, tmp_path, trained_tower=layout == "trained")
    reference = part("vila", "reference")
    model = reference.load(sources, torch.float32, "cpu")
    requested = request("vila", sources, images)
    features = tiny.filled("vila", sources)(requested.pixels)
    torch.testing.assert_close(model.features(requested.pixels), features, rtol=1e-4, atol=1e-4)

    ids = torch.tensor([requested.ids])
    embedded = model.embeddings(ids, requested.pixels)
    torch.testing.assert_close(embedded[0, ids[0] < 0], features.flatten(0, 1), rtol=1e-4, atol=1e-4)
    words = ids[0] >= 0
    assert torch.equal(embedded[0, words], model.llm.get_input_embeddings()(ids[0, words]))

    model.generation_config.eos_token_id = None
    result = model.generate(
        **arguments(model, requested),
        max_new_tokens=STEPS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert result.sequences.shape == (1, STEPS)
    first = model.llm(inputs_embeds=embedded).logits[0, -1]
    torch.testing.assert_close(result.logits[0][0], first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", ["vision_model.", "vision_tower.vision_model.", ""])
@torch.inference_mode()
def test_a_tower_is_found_under_the_names_of_all_times(level: str, tmp_path: Path) -> None:
    sources = tiny.save_vila(4, tmp_path)
    file = tmp_path / "vision_tower" / "model.safetensors"
    tensors = {level + name: value for name, value in load_file(file).items()}
    del tensors[level + "head.probe"], tensors[level + "post_layernorm.bias"]  # behind what is looked at
    save_file(tensors, file)
    model = part("vila", "reference").load(sources, torch.float32, "cpu")
    pixels = request("vila", sources).pixels
    expected = tiny.tower(4, "siglip")(pixels, output_hidden_states=True).hidden_states[-2]
    found = model.tower(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        tiny.filled("vila", sources)(pixels), model.features(pixels), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("family", "file", "name"),
    [
        ("vila", "vision_tower/model.safetensors", "encoder.layers.0.mlp.fc1.weight"),
        ("vila", "mm_projector/model.safetensors", "layers.2.bias"),
        ("vila", "llm/model.safetensors", "model.norm.weight"),
        ("nougat", "model.safetensors", "decoder.model.decoder.layer_norm.weight"),
        ("blip2-opt", "model.safetensors", "query_tokens"),
        ("blip2-t5", "model.safetensors", "language_model.shared.weight"),
    ],
)
def test_nothing_is_compared_with_weights_made_up(family: str, file: str, name: str, tmp_path: Path) -> None:
    if family == "vila":
        tiny.save_vila(4, tmp_path)
    else:
        tiny.save_model(family, 2, tmp_path)
    tensors = load_file(tmp_path / file)
    del tensors[name]
    save_file(tensors, tmp_path / file, metadata={"format": "pt"})
    with pytest.raises(EngineError) as caught:
        part(family, "reference").load({"model": tmp_path}, torch.float32, "cpu")
    assert caught.value.code == "MM563"


@pytest.mark.parametrize(
    ("family", "file", "name"),
    [
        ("vila", "vision_tower/model.safetensors", "encoder.layers.0.mlp.fc1.weight"),
        ("vila", "mm_projector/model.safetensors", "layers.2.bias"),
        ("vila", "llm/model.safetensors", "model.norm.weight"),
        ("nougat", "model.safetensors", "decoder.model.decoder.layer_norm.weight"),
        ("blip2-opt", "model.safetensors", "query_tokens"),
        ("blip2-t5", "model.safetensors", "language_model.shared.weight"),
    ],
)
def test_weights_of_another_shape_are_an_error_with_a_code(
    family: str, file: str, name: str, tmp_path: Path
) -> None:
    if family == "vila":
        tiny.save_vila(4, tmp_path)
    else:
        tiny.save_model(family, 2, tmp_path)
    tensors = load_file(tmp_path / file)
    tensors[name] = torch.cat([tensors[name], tensors[name]], dim=-1)
    save_file(tensors, tmp_path / file, metadata={"format": "pt"})
    refused(EngineError, "MM563", part(family, "reference").load, {"model": tmp_path}, torch.float32, "cpu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_mean": "x"},
        {"image_std": [{}, 1, 1]},
        {"rescale_factor": ["x"]},
        {"size": {"height": 0, "width": 0}},
    ],
)
def test_settings_that_transformers_fails_on_are_an_error_with_a_code(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny.save_model("blip2-opt", 2, tmp_path)
    prepare = load_inputs("blip2-opt", {"model": tmp_path}, model)
    picture = Image.new("RGB", (30, 20), "red")
    assert prepare("what ?", [picture]).pixels.numel()
    edit(tmp_path / "preprocessor_config.json", **wrong)
    prepare = load_inputs("blip2-opt", {"model": tmp_path}, model)
    refused(EngineError, "MM599", prepare, "what ?", [picture])


@pytest.mark.parametrize(
    "setting", [{"assistant_early_exit": 1}, {"prompt_lookup_num_tokens": "2"}, {"use_mtp": True}]
)
def test_generation_settings_that_transformers_fails_on_are_an_error_with_a_code(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny.save_model("blip2-opt", 2, tmp_path)
    question = load_inputs("blip2-opt", {"model": tmp_path}, model)("what ?", [Image.new("RGB", (30, 20))])
    assert answer_greedily(model, question, 2)
    for name, value in setting.items():
        setattr(model.language_model.generation_config, name, value)
    refused(EngineError, "MM599", answer_greedily, model, question, 2)
