"""Weights that hold the embedding only under a tied name, beside what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbuild.models.checkpoint.config import CheckpointConfig, components
from mmbuild.models.checkpoint.convert import convert
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families import ModelFacts, family
from mmbuild.models.families.reference import load_reference
from support.errors import refused
from support.models import tiny_families

T5 = "language_model."
CASES = {
    "an OPT's head": (
        "blip2-opt",
        "language_model.model.decoder.embed_tokens.weight",
        "language_model.lm_head.weight",
    ),
    "a Nougat's head": ("nougat", "decoder.model.decoder.embed_tokens.weight", "decoder.lm_head.weight"),
    "a T5's head": ("blip2-t5", f"{T5}shared.weight", f"{T5}lm_head.weight"),
    "a T5's encoder": ("blip2-t5", f"{T5}shared.weight", f"{T5}encoder.embed_tokens.weight"),
    "a T5's decoder": ("blip2-t5", f"{T5}shared.weight", f"{T5}decoder.embed_tokens.weight"),
}


def facts_of(name: str, model: Path) -> ModelFacts:
    return family(name).facts(json.loads((model / "config.json").read_text()), None)


def saved(name: str, root: Path, *, tied: bool) -> Path:
    """A tiny model whose config ties the head, or does not."""
    for seed in range(50):
        model = root / f"{name}-{seed}"
        tiny_families.save_model(name, seed, model)
        if facts_of(name, model).llm.tie_word_embeddings == tied:
            return model
    raise AssertionError("no seed draws that")


def renamed(model: Path, name: str, other: str) -> None:
    """Store the tensor ``name`` as ``other`` alone."""
    path = model / "model.safetensors"
    stored = load_file(path)
    table = stored.pop(name)
    save_file({**stored, other: table}, path, {"format": "pt"})


def converted(name: str, model: Path, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of each stack."""
    known = facts_of(name, model)
    stacks = {
        where: CheckpointConfig(llm, "float32", 1)
        for where, llm in components(known.llm, known.encoder).items()
    }
    out.mkdir()
    convert(model, out, name, stacks)
    return {where: load_file(out / where / "rank0.safetensors") for where in stacks}


def tables(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [
        tensor
        for name, tensor in tensors.items()
        if name.endswith(("vocab_embedding.weight", "lm_head.weight"))
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_table_under_a_tied_name_is_the_one_that_transformers_loads(case: str, tmp_path: Path) -> None:
    name, embedding, other = CASES[case]
    model = saved(name, tmp_path, tied=True)
    table = load_file(model / "model.safetensors")[embedding]
    renamed(model, embedding, other)
    loaded: Any = load_reference(name, {"model": model}, "float32", "cpu")
    text = loaded.decoder if name == "nougat" else loaded.language_model
    theirs = [text.get_input_embeddings().weight, text.get_output_embeddings().weight]
    assert all(torch.equal(weight, table) for weight in theirs)
    for where, tensors in converted(name, model, tmp_path / "out").items():
        found = tables(tensors)
        assert found, where
        assert all(torch.equal(weight, table) for weight in found), where


def test_the_head_of_a_config_that_does_not_tie_is_no_embedding(tmp_path: Path) -> None:
    model = saved("blip2-opt", tmp_path, tied=False)
    path = model / "model.safetensors"
    stored = load_file(path)
    del stored["language_model.model.decoder.embed_tokens.weight"]
    save_file(stored, path, {"format": "pt"})
    assert "language_model.lm_head.weight" in stored
    refused(CheckpointError, "MM430", converted, "blip2-opt", model, tmp_path / "out")
