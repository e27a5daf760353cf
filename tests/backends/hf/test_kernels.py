"""Kernels: what a rank's share of each layer must be for a program's kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmbuild.backends.hf.consumers.load import NAMES, consumer
from mmbuild.backends.hf.forms import FORMS
from mmbuild.backends.hf.kernels_found import Request, findings, served
from mmbuild.models.families import family
from mmbuild.models.sources.config import read_config
from support.hf.checkpoints import facts


def llava_7b():
    return family("llava").facts(read_config("dummy://llava-hf/llava-1.5-7b-hf", None, None).config).llm


def asked(algorithm, group=None, dtype="float16", sm=90, ranks=1):
    return Request(FORMS[algorithm], group, dtype, sm, ranks)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("algorithm", "group"),
    [("int8", None), ("int4", None), ("int4", 64), ("int4_awq", 128), ("smoothquant", None), ("fp8", None)],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_form_of_llava_7b_has_a_kernel_on_a_hopper_gpu(name, algorithm, group, ranks):
    assert list(findings(consumer(name), llava_7b(), asked(algorithm, group, ranks=ranks))) == []


def test_layers_that_servers_run_as_one_are_one():
    shapes = {layer.name: (layer.outputs, layer.inputs) for layer in served(llava_7b(), 2)}
    assert shapes == {
        "attention.qkv": (6144, 4096),
        "attention.dense": (4096, 2048),
        "mlp.gate_up": (11008, 4096),
        "mlp.proj": (4096, 5504),
    }


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (asked("int4", dtype="float32"), "float16 or bfloat16, not float32"),
        (asked("fp8", sm=75), "SM 89 to 999, not 75"),
        (asked("int4", 64, ranks=8), "whole groups of 64"),
    ],
)
def test_a_format_without_a_kernel_says_why(request_, words):
    llm = replace(llava_7b(), intermediate_size=11008 - 8 * 16)
    (message, *_) = findings(consumer("vllm"), llm, request_)
    assert words in message
    assert "vLLM 0.26" in message


def test_sglang_takes_no_layers_that_marlin_s_tiles_do_not_divide_and_vllm_pads_them():
    llm = replace(facts("llava").llm, intermediate_size=200)
    assert list(findings(consumer("vllm"), llm, asked("int4"))) == []
    (message,) = findings(consumer("sglang"), llm, asked("int4"))
    assert "Marlin: outputs in multiples of 64" in message or "inputs in multiples of 128" in message


def test_a_head_size_that_no_attention_kernel_takes_is_found():
    llm = replace(facts("llava").llm, head_size=20)
    assert any("heads of 20" in message for message in findings(consumer("vllm"), llm, asked("int8")))


@pytest.mark.parametrize("name", NAMES)
def test_a_table_names_only_families_and_formats_that_are_written(name):
    from mmbuild.backends.hf.names import FAMILIES

    program = consumer(name)
    assert set(program.families) <= set(FAMILIES)
    formats = {form.format for form in FORMS.values()}
    assert set(program.kernels) <= formats
    assert not program.kernels or set(program.kernels) == formats
