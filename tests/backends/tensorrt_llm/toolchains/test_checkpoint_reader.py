"""Which lines of TensorRT-LLM read a calibrated checkpoint: all correct ones, and no damaged one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.output_checks.model import tables
from mmbuild.backends.tensorrt_llm.toolchains import checkpoint_reader
from mmbuild.backends.tensorrt_llm.toolchains.checkpoint_reader import (
    Header,
    Objection,
    lines_that_read,
    read_config,
    release_line,
)
from mmbuild.base.safetensors_header import read_tensor_header
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS, stored_tensors
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families.facts import LlmFacts
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.errors import refused
from support.models.calibrated_checkpoints import random_tensors, write_checkpoint

LLM = LlmFacts(
    architecture="LlamaForCausalLM",
    vocab_size=50,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_size=32,
    intermediate_size=128,
    hidden_act="silu",
    norm_epsilon=1e-5,
    max_position_embeddings=64,
    position_embedding_type="rope_gpt_neox",
    layernorm_type="RmsNorm",
    mlp_type="GatedMLP",
)


def config(algorithm: str, dtype: str = "float16", group: int = 64, llm: LlmFacts = LLM) -> CheckpointConfig:
    how = ALGORITHMS[algorithm]
    return CheckpointConfig(llm, dtype, 1, how.quant_algo, group if how.grouped else None)


def written(tmp_path: Path, algorithm: str, dtype: str = "float16") -> Path:
    required = config(algorithm, dtype)
    return write_checkpoint(tmp_path / f"{algorithm}-{dtype}", required, random_tensors(required))


def read_tensors(content: dict[str, Any], header: Header) -> tuple[Objection, ...]:
    """Objections to the tensors of a rank, which are the same in every line."""
    (found,) = {checkpoint_reader.read_tensors(line, content, header) for line in SUPPORTED}
    return found


def headers(checkpoint: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    read = read_tensor_header(checkpoint / "rank0.safetensors")
    return {name: (tensor.dtype, tensor.shape) for name, tensor in read.items()}


@pytest.mark.parametrize("line", SUPPORTED)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_line_reads_what_is_written_for_llama(
    tmp_path: Path, algorithm: str, dtype: str, line: str
) -> None:
    checkpoint = written(tmp_path, algorithm, dtype)
    in_float16 = release_line(line).float16_alone and (algorithm, dtype) == ("smoothquant", "bfloat16")
    content = json.loads((checkpoint / "config.json").read_text())
    assert [item.key for item in read_config(line, content)] == (["dtype"] if in_float16 else [])
    assert not list(read_tensors(content, headers(checkpoint)))
    lines = ("0.12.0", "1.2") if (algorithm, dtype) == ("smoothquant", "bfloat16") else SUPPORTED
    assert lines_that_read(checkpoint) == (lines, None)


@pytest.mark.parametrize("line", SUPPORTED)
@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_a_kind_of_rope_scaling_is_read_where_the_reader_knows_it(line: str, kind: str) -> None:
    scaled = replace(LLM, rotary_base=5e5, rotary_scaling={"rope_type": kind, "factor": 8.0})
    content = to_json(CheckpointConfig(scaled, "float16", 1))
    assert content["rotary_scaling"] == {"rope_type": kind, "type": kind, "factor": 8.0}
    known = kind == "linear" or line == "1.2"
    assert [item.key for item in read_config(line, content)] == ([] if known else ["rotary_scaling"])


@pytest.mark.parametrize("line", SUPPORTED)
def test_smoothquant_of_the_first_lines_turns_by_the_plain_base_alone(line: str) -> None:
    other = to_json(config("smoothquant", llm=replace(LLM, rotary_base=5e5)))
    plain = to_json(config("smoothquant", llm=replace(LLM, rotary_base=10000.0)))
    assert read_config(line, plain) == ()
    assert [item.key for item in read_config(line, other)] == (
        ["rotary_base"] if line.startswith("0.9") else []
    )


@pytest.mark.parametrize("line", SUPPORTED)
def test_heads_of_their_own_width_are_refused_where_the_reader_divides(line: str) -> None:
    content = to_json(CheckpointConfig(replace(LLM, head_size=64), "float16", 1))
    first = line == "0.9.0.dev2024040900"
    assert [item.key for item in read_config(line, content)] == (["head_size"] if first else [])


@pytest.mark.parametrize("fault", ["missing", "type", "shape"])
def test_a_norm_without_its_number_is_found(fault: str) -> None:
    content, name = to_json(config("smoothquant")), "transformer.layers.1.post_layernorm"
    header = {f"{name}.weight": ("F16", (128,)), f"{name}.scale_to_int": ("F32", (1,))}
    assert read_tensors(content, header) == ()
    if fault == "missing":
        del header[f"{name}.scale_to_int"]
    else:
        header[f"{name}.scale_to_int"] = ("F16", (1,)) if fault == "type" else ("F32", (128,))
    (objection,) = read_tensors(content, header)
    assert objection.key == f"{name}.scale_to_int"


@given(key=st.from_regex(r"[a-z_]{3,20}", fullmatch=True), line=st.sampled_from(SUPPORTED))
def test_an_unknown_key_is_named_within_quantization_and_taken_outside(key: str, line: str) -> None:
    known = {*release_line(line).quantization, *release_line(line).read_only}
    content = to_json(config("int4_awq"))
    if key not in known:
        assert read_config(line, {**content, "extra_" + key: 1}) == ()
        spoilt = {**content, "quantization": {**content["quantization"], key: None}}
        (objection,) = read_config(line, spoilt)
        assert objection.key == f"quantization.{key}"


def test_keys_that_came_later_are_unknown_to_the_first_lines() -> None:
    content = to_json(config("fp8"))
    content["quantization"]["clamp_val"] = [0.0, 1.0]
    reading = [line for line in SUPPORTED if read_config(line, content) == ()]
    assert reading == ["1.2"]
    (objection,) = read_config("0.12.0", content)
    assert objection.key == "quantization.clamp_val"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"quantization": {"quant_algo": "W2A16"}}, "quantization.quant_algo"),
        ({"quantization": {"quant_algo": "W4A8_AWQ"}}, "quantization.quant_algo"),
        ({"architecture": "OPTForCausalLM"}, "quantization.quant_algo"),
        ({"quantization": {"quant_algo": "W4A16_AWQ", "group_size": 32}}, "quantization.group_size"),
        ({"quantization": {"quant_algo": "W4A16"}}, "layout"),
        ({"quantization": {"quant_algo": "W8A16"}}, "layout"),
        ({"dtype": "float32"}, "dtype"),
        ({"vocab_size": None}, "vocab_size"),
        ({"quant_mode": 3}, "quant_mode"),
    ],
)
def test_each_fault_of_a_config_is_named_by_its_key(change: dict[str, object], key: str) -> None:
    for line in SUPPORTED:
        content = {**to_json(config("int4_awq")), **change}
        assert [item.key for item in read_config(line, content)] == [key]


def test_the_unquantized_form_is_read_by_every_line_in_every_number_format() -> None:
    for line in SUPPORTED:
        for dtype in ("float32", "float16", "bfloat16"):
            assert read_config(line, to_json(CheckpointConfig(LLM, dtype, 1))) == ()


def test_an_undescribed_version_reads_nothing() -> None:
    (objection,) = read_config("0.11.0", to_json(config("fp8")))
    assert objection.key == "version"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_tensor_that_is_gone_or_of_another_type_is_named(algorithm: str) -> None:
    required = config(algorithm)
    whole = random_tensors(required)
    content = to_json(required)
    header = {
        name: ({"int8": "I8", "float8_e4m3fn": "F8_E4M3", "float16": "F16", "float32": "F32"}[dtype], shape)
        for name, (dtype, shape) in described(required).items()
    }
    assert set(header) < set(whole)
    assert read_tensors(content, header) == ()
    for name in header:
        if not name.endswith(".weight"):
            without = {key: value for key, value in header.items() if key != name}
            assert [item.key for item in read_tensors(content, without)] == [name]
        other = {**header, name: ("I64", header[name][1])}
        assert [item.key for item in read_tensors(content, other)] == [name]


def described(required: CheckpointConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What the layers of the first block store, by the writer's own table."""
    assert required.quant_algo is not None
    algorithm = next(how for how in ALGORITHMS.values() if how.quant_algo == required.quant_algo)
    sizes = {"attention.qkv": (256, 128), "attention.dense": (128, 128), "mlp.proj": (128, 128)}
    return {
        f"transformer.layers.0.{layer}.{suffix}": entry
        for layer, (outputs, inputs) in sizes.items()
        for suffix, entry in stored_tensors(
            algorithm, layer, outputs, inputs, dtype=required.dtype, group_size=required.group_size,
            inputs_split=layer in ("attention.dense", "mlp.proj"),
        ).items()
    }  # fmt: skip


def test_scales_of_other_groups_than_the_config_says_are_found_in_the_file(tmp_path: Path) -> None:
    required = config("int4_awq")
    stored = random_tensors(required)
    checkpoint = write_checkpoint(tmp_path / "spoilt", replace(required, group_size=128), stored)
    content = json.loads((checkpoint / "config.json").read_text())
    assert not read_config("1.2", content)
    keys = {item.key.rpartition(".")[2] for item in read_tensors(content, headers(checkpoint))}
    assert keys == {"weights_scaling_factor"}
    lines, objection = lines_that_read(checkpoint)
    assert (lines, objection is not None) == ((), True)


def test_half_of_a_checkpoint_is_not_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "fp8")
    (checkpoint / "rank0.safetensors").write_bytes(b"no tensors")
    refused(CheckpointError, "MM436", lines_that_read, checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({}))
    refused(CheckpointError, "MM436", lines_that_read, checkpoint)


@pytest.mark.parametrize("line", SUPPORTED)
def test_the_tables_name_the_same_algorithms_and_scales_as_the_others(line: str) -> None:
    layouts = release_line(line).layouts
    for how in ALGORITHMS.values():
        layout = layouts[how.quant_algo]
        assert {*layout.tensors, *layout.rows} == {stored.suffix for stored in how.tensors}
        assert set(layout.norms) == {constant.suffix for constant in how.norms}
        assert set(layout.rows) == {stored.suffix for stored in how.tensors if stored.only_where_inputs_split}
    for algorithm, scale in tables().scales.items():
        assert algorithm in release_line(line).permuted or scale in layouts[algorithm].tensors
