"""Number formats that GPUs and layer sizes allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals, violations
from mmbuild.backends.tensorrt_llm.toolchains.gpu_formats import multiple_of, tables, unpackable
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.models.families.facts import LlmFacts
from mmbuild.schema.linear_shapes import linears
from mmbuild.schema.model import Algorithm, Device, Dtype, Target
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.toolchain.cases import load

UP_TO_HOPPER = SUPPORTED[:-1]


def shaped(algorithm: str, *overrides: str) -> ResolvedRecipe:
    return load(
        "llava-fp16", f"engine.quantization={algorithm}", "engine.tensorrt_llm.fused_mlp=auto", *overrides
    )[0]


def stated_for(variant: ResolvedRecipe, sm: int) -> ResolvedRecipe:
    """``variant`` with a target GPU, bypassing the schema rules."""
    return replace(
        variant, recipe=variant.recipe.model_copy(update={"target": Target(device=Device.CUDA, sm=sm)})
    )


def violation_codes(variant: ResolvedRecipe, version: str, sm: int | None = None) -> list[str]:
    return [
        fault.code for fault in violations(variant, load_toolchain(version), sm=sm) if fault.code != "MM603"
    ]


@pytest.mark.parametrize(
    ("version", "algorithm", "dtype", "fits", "does_not"),
    [
        *((version, "none", "float16", (70, 90), (61, 100, 120)) for version in UP_TO_HOPPER),
        *((version, "int4", "float16", (70, 75, 80, 86, 89, 90), (61, 100)) for version in UP_TO_HOPPER),
        *((version, "none", "bfloat16", (80, 90), (70, 75)) for version in SUPPORTED),
        *((version, "fp8", "float16", (89, 90), (80, 86)) for version in SUPPORTED),
        ("1.2", "none", "float16", (75, 90, 100, 120), (70,)),
        ("1.2", "int8", "float16", (80, 90, 120), (100, 103)),
        ("1.2", "smoothquant", "float16", (80, 90, 120), (100, 103)),
        ("1.2", "int4_awq", "float16", (80, 100, 120), (70,)),
        ("1.2", "fp8", "float16", (89, 100), (86,)),
    ],
)
def test_formats_run_on_some_gpus(
    version: str, algorithm: str, dtype: str, fits: tuple[int, ...], does_not: tuple[int, ...]
) -> None:
    for sm in (*fits, *does_not):
        stated = stated_for(shaped(algorithm, f"engine.dtype={dtype}"), sm)
        expected = [] if sm in fits else ["MM640"]
        assert violation_codes(stated, version) == expected, sm
        # Without a target in the recipe, the host's GPU counts.
        assert violation_codes(shaped(algorithm, f"engine.dtype={dtype}"), version, sm) == expected, sm


def test_an_unknown_gpu_is_not_checked() -> None:
    assert violation_codes(shaped("fp8"), "1.2") == []


def test_the_recipes_gpu_overrides_the_hosts() -> None:
    assert violation_codes(shaped("fp8", "target.device=cuda", "target.sm=90"), "1.2", 70) == []


def test_the_message_says_format_and_gpu_and_what_to_do() -> None:
    (error,) = refusals(shaped("fp8"), load_toolchain("1.2"), sm=80)
    assert error.message.endswith(
        "with TensorRT-LLM 1.2: fp8 needs SM 89 or newer, and the engine is for SM 80"
    )
    assert "int4_awq" in str(error.hint)


@pytest.mark.parametrize(
    ("recipe", "algorithm", "ranks", "layers"),
    [
        ("llava-fp16", "int4", 4, []),  # 11008 / 4 = 2752 = 43 x 64
        ("llava-fp16", "int4", 8, ["mlp.fc", "mlp.gate", "mlp.proj"]),  # 1376 = 21.5 x 64
        ("llava-fp16", "int8", 8, []),  # 1376 = 43 x 32
        ("llava-13b-fp16", "int4", 8, ["mlp.fc", "mlp.gate", "mlp.proj"]),  # 13824 / 8 = 1728 = 27 x 64
        ("opt-2.7b", "int4", 8, []),  # 2560 / 8 = 320, 10240 / 8 = 1280
    ],
)
def test_layers_that_cannot_be_packed_are_named(
    recipe: str, algorithm: str, ranks: int, layers: list[str]
) -> None:
    (found,) = {unpackable(version, load(recipe)[0].facts, algorithm, ranks) for version in SUPPORTED}
    if recipe == "llava-13b-fp16":
        layers = [layer for layer in layers if 13824 // 8 % 64]
    assert [layer.name for layer in found] == layers


def test_the_hint_lists_ranks_that_work() -> None:
    (fault,) = violations(shaped("int4", "engine.tensor_parallel=8"), load_toolchain("1.2"))
    assert (fault.code, fault.blame[0]) == ("MM641", "engine.tensor_parallel")
    assert fault.hint == "set engine.tensor_parallel to 1, 2, 4"


sizes = st.integers(1, 40).map(lambda count: 16 * count)


@given(heads=st.sampled_from([2, 4, 8]), size=sizes, inner=sizes, ranks=st.sampled_from([1, 2]))
def test_rows_and_columns_are_those_of_the_split_weight(
    heads: int, size: int, inner: int, ranks: int
) -> None:
    facts = load("llava-fp16")[0].facts
    llm: LlmFacts = replace(
        facts.llm,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=size,
        hidden_size=heads * size,
        intermediate_size=inner,
    )
    width, mine = heads * size, heads * size // ranks
    expected = [
        ("attention.qkv", 3 * mine, width),
        ("attention.dense", width, mine),
        ("mlp.fc", inner // ranks, width),
        ("mlp.gate", inner // ranks, width),
        ("mlp.proj", width, inner // ranks),
    ]
    assert [(layer.name, layer.outputs, layer.inputs) for layer in linears(llm, ranks)] == expected
    for algorithm, block in (("none", 1), ("int8", 32), ("int4", 64), ("int4_awq", 64), ("fp8", 1)):
        assert {multiple_of(version, algorithm) for version in SUPPORTED} == {block}
        wrong = {name for name, outputs, inputs in expected if outputs % block or inputs % block}
        found = unpackable("1.2", replace(facts, llm=llm), algorithm, ranks)
        assert {layer.name for layer in found} == wrong


@pytest.mark.parametrize("version", SUPPORTED)
def test_tables_list_only_existing_formats(version: str) -> None:
    known = {item.value for item in Algorithm} | {item.value for item in Dtype}
    for row in (*tables(version).gpus, *tables(version).packing):
        assert set(row.formats) <= known
        assert row.evidence
