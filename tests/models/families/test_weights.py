"""The naming schemes of language models match the tensors that transformers writes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from safetensors import safe_open

from mmbuild.models import families
from mmbuild.models.families.facts import Naming
from support.models import tiny_families as tiny
from support.models.tiny_llava import save_random_model


def stored(directory: Path) -> set[str]:
    """Names of all tensors, prefixed with their subdirectory of ``directory``."""
    names: set[str] = set()
    for file in directory.rglob("*.safetensors"):
        below = "" if file.parent == directory else f"{file.parent.name}/"
        with safe_open(file, "pt") as tensors:
            names |= {below + name for name in tensors.keys()}  # noqa: SIM118 (no mapping)
    return names


def naming(family: str, names: Collection[str], first: str) -> Naming:
    """The naming under which the table's tensor ``first`` exists."""
    return next(item for item in families.family(family).NAMINGS if item.prefix + first in names)


FIRST = {
    "blip2-opt": "embed_tokens.weight",
    "blip2-t5": "shared.weight",
    "nougat": "embed_tokens.weight",
    "vila": "embed_tokens.weight",
}
# A tensor of every kind that the checkpoint tables ask for.
ASKED = {
    "blip2-opt": (
        "embed_positions.weight",
        "layers.1.self_attn.out_proj.bias",
        "layers.0.self_attn_layer_norm.weight",
        "layers.0.fc2.bias",
        "layers.1.final_layer_norm.weight",
    ),
    "blip2-t5": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.1.EncDecAttention.k.weight",
        "encoder.final_layer_norm.weight",
        "decoder.final_layer_norm.weight",
    ),
    "nougat": (
        "embed_positions.weight",
        "layernorm_embedding.bias",
        "layers.0.encoder_attn.v_proj.weight",
        "layers.0.encoder_attn_layer_norm.bias",
        "layers.0.fc1.weight",
        "layer_norm.weight",
    ),
    "vila": ("layers.1.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight", "norm.weight"),
}


def save(family: str, form: str, root: Path) -> Path:
    if form == "directories":
        return tiny.save_vila(0, root)["model"]
    if form == "flat":
        return tiny.save_flat_vila(0, root, trained_tower=True)["model"]
    if form == "text":
        return tiny.save_in_two(family, 0, root)["model"]
    tiny.save_model(family, 0, root)
    return root


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("blip2-opt", "whole"), ("blip2-opt", "text"), ("blip2-t5", "whole"), ("blip2-t5", "text"),
        ("nougat", "whole"), ("vila", "directories"), ("vila", "flat"),
    ],
)  # fmt: skip
def test_every_tensor_is_of_the_language_model_or_of_the_visual_side(
    family: str, form: str, tmp_path: Path
) -> None:
    names = stored(save(family, form, tmp_path))
    found = naming(family, names, FIRST[family])
    assert {found.prefix + name for name in ASKED[family]} <= names
    canonical = families.part(family, "visual").canonical
    others = tuple(found.prefix + other for other in found.others)
    for name in names:
        of_llm = name == found.head or (
            name.startswith(found.prefix) and not (others and name.startswith(others))
        )
        of_visual = canonical("model", name) is not None
        # A T5 text model has no prefix, so only the visual side distinguishes them.
        assert (of_llm != of_visual) or (found.prefix == "" and of_llm), name


def test_t5_ignores_the_encoder_s_copy_and_a_table_that_was_never_used() -> None:
    ignored = families.family("blip2-t5").NAMINGS[0].ignored
    for name in (
        "language_model.encoder.embed_tokens.weight",
        "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    ):
        assert name.endswith(ignored)
    assert not "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight".endswith(ignored)


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5", "nougat", "vila"])
def test_random_weights_have_the_names_and_shapes_of_a_real_model(family: str, tmp_path: Path) -> None:
    directory = save(family, "directories" if family == "vila" else "whole", tmp_path)
    config = json.loads((directory / "config.json").read_text())
    shapes = families.part(family, "reference").tensor_shapes(config)
    real = stored(directory)
    # VILA's tower is stored with a level that transformers 5 has dropped.
    written = {name.replace("vision_tower/vision_model.", "vision_tower/") for name in shapes}
    assert written == {name.replace("vision_tower/vision_model.", "vision_tower/") for name in real}


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5", "vila"])
def test_random_weights_of_two_sources(family: str, tmp_path: Path) -> None:
    sources = tiny.save_flat_vila(0, tmp_path) if family == "vila" else tiny.save_in_two(family, 0, tmp_path)
    for directory in sources.values():
        config = json.loads((directory / "config.json").read_text())
        shapes = families.part(family, "reference").tensor_shapes(config)
        assert set(shapes) == stored(directory)


@pytest.mark.parametrize("family", ["llava", "blip2-opt", "blip2-t5", "nougat", "vila", "flat vila"])
@pytest.mark.parametrize("seed", range(4))
def test_the_table_of_visual_weights_is_that_of_the_module(family: str, seed: int, tmp_path: Path) -> None:
    name = family.removeprefix("flat ")
    kind = ("linear", "mlp2x_gelu", "mlp_downsample", "mlp3x_gelu")[seed]
    if family == "llava":
        save_random_model(tmp_path, seed)
        sources = {"model": tmp_path}
    elif family == "vila":
        sources = tiny.save_vila(seed, tmp_path, kind)
    elif family == "flat vila":
        sources = tiny.save_flat_vila(seed, tmp_path, kind.replace("mlp_downsample", "linear"))
    else:
        tiny.save_model(name, seed, tmp_path)
        sources = {"model": tmp_path}
    weights = families.part(name, "visual_weights")
    module = tiny.visual_module(name, sources)
    assert weights.tensors(tiny.visual_shape(name, sources)) == {
        weights.canonical("module", parameter): tuple(value.shape)
        for parameter, value in module.named_parameters()
    }
