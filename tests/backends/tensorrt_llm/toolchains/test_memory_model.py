"""Predicted memory: compares parameters with published counts, and factors with logs of trtllm-build."""

from __future__ import annotations

import pytest

from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.memory_model import (
    Table,
    parameters,
    predict,
    rank_bytes,
    table,
    tower_parameters,
)
from mmbuild.schema.model import Algorithm
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.toolchain.cases import everything, load

# Published counts, in billions: LLaMA-7B and 13B of LLaVA-1.5, OPT-2.7B and 6.7B, FLAN-T5-XL and XXL.
COUNTS = {
    "llava-fp16": 6.74,
    "llava-13b-fp16": 13.02,
    "opt-2.7b": 2.65,
    "opt-6.7b": 6.66,
    "flan-t5-xl": 2.85,
    "flan-t5-xxl": 11.14,
}


@pytest.mark.parametrize("recipe", COUNTS)
def test_parameter_counts_match_published_ones(recipe: str) -> None:
    facts = load(recipe)[0].facts
    stacks = [facts.llm] + ([facts.encoder] if facts.encoder else [])
    twice = facts.llm.vocab_size * facts.llm.hidden_size
    # Each stack has the embedding table; published counts have it once, and a tied head not at all.
    count = sum(map(parameters, stacks)) - twice * (len(stacks) - 1)
    count -= twice if facts.llm.tie_word_embeddings else 0
    assert count / 1e9 == pytest.approx(COUNTS[recipe], rel=0.01)


@pytest.mark.parametrize(("recipe", "count"), [("llava-fp16", 302e6), ("opt-2.7b", 986e6)])
def test_towers_are_counted(recipe: str, count: float) -> None:
    # Blocks of CLIP ViT-L/14 and of EVA-ViT-g.
    assert tower_parameters(load(recipe)[0].facts.visual) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize(
    ("algorithm", "item"),
    [("none", 2), ("int8", 1), ("fp8", 1), ("smoothquant", 1), ("int4", 0.5), ("int4_awq", 0.53125)],
)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_rank_holds_its_share_of_linear_layers_and_head_and_the_whole_table(
    algorithm: str, item: float, ranks: int
) -> None:
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    table = 2 * 32064 * 4096
    found = rank_bytes(load("llava-fp16")[0].facts.llm, ranks, "float16", Algorithm(algorithm))
    assert found == pytest.approx((linear * item + table) / ranks + table, rel=0.001)


# Weights and peak of the host's memory, MiB, as logs of trtllm-build say; memory_model.yaml names them.
LOGS = [(70725, 176257), (7757, 18131), (1453, 5799), (1035, 4628), (311, 6979), (150, 4851), (1900, 10422)]


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize(("weights", "peak"), LOGS)
def test_measured_builds_stay_within_the_prediction(weights: int, peak: int, version: str) -> None:
    (row,) = table(version).build_llm
    predicted = row.host["base"] / 2**20 + row.host["rank"] * weights
    assert predicted > 0.9 * peak
    assert predicted < 1.6 * peak + 1024


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_step_of_every_family_and_precision_is_predicted(version: str) -> None:
    toolchain = load_toolchain(version)
    kinds = {(item.facts.family, item.recipe.engine.quantization.algorithm): item for item in everything()}
    assert len(kinds) > 15
    for variant in kinds.values():
        for step in Table.model_fields:
            memory = predict(step, variant, toolchain)
            assert 1e9 < memory.host < 2e11, (variant.name, step)
            assert 0 <= memory.gpu < 1e11
            needs_gpu = step in ("quantize", "build_llm", "build_visual")
            assert memory.gpu > 0 or not needs_gpu


def test_more_ranks_take_less_to_build_and_no_less_to_convert() -> None:
    toolchain = load_toolchain("1.2")
    (one,), (four,) = load("llava-fp16"), load("llava-fp16", "engine.tensor_parallel=4")
    assert predict("build_llm", four, toolchain).host < predict("build_llm", one, toolchain).host
    assert predict("convert", four, toolchain).host >= predict("convert", one, toolchain).host


def test_a_separate_text_model_is_converted_without_the_tower() -> None:
    (variant,) = load("opt-2.7b", "engine.quantization=none")
    alone, whole = (predict("convert", variant, load_toolchain(version)) for version in ("0.10.0", "1.2"))
    assert whole.host - alone.host == 2 * tower_parameters(variant.facts.visual)
