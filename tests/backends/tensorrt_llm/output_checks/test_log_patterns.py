"""Known lines: each is detected and explained, and an ordinary log has no findings."""

from __future__ import annotations

from typing import get_args

import pytest

from mmbuild.backends.tensorrt_llm.output_checks.log_patterns import KnownLine, LogCode, known_lines, scan
from mmbuild.base.codes import codes
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

SAID = {
    "MM670": [
        "AssertionError: Engine world size (2) != Runtime world size (1)",
        "Assertion failed: mpiSize == tp * pp",
    ],
    "MM671": [
        "[TRT] [E] 1: [stdArchiveReader.cpp] Error Code 1: Serialization (Version tag does not match. Note)",
        "[TRT] [E] engine plan file is not compatible, expecting library version 9.2.0.5 got 9.3.0.1",
    ],
    "MM672": ["safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"],
    "MM673": [
        "Killed",
        "run.sh: line 3:   812 Killed                  python convert_checkpoint.py",
        "mpirun noticed that process rank 1 with PID 0 on node a exited on signal 9 (Killed).",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "MemoryError",
    ],
    "MM674": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[TRT] [E] 1: [defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)",
    ],
    "MM675": ["[TRT] [E] Failed parsing visual_engines/llava/onnx/visual_encoder.onnx"],
    "MM676": ["[W] Cannot find tmp/trt_models/opt/fp16/2-gpu/rank1.safetensors. Use dummy model weights."],
    "MM677": ["[ERROR] Relative attention table, number of heads 6 is not divisible by TP size 4!"],
    "MM678": ["ValueError: Unsupported quant algo: QuantAlgo.W8A16"],
    "MM679": ["ValueError: max_workers must be greater than 0"],
    "MM680": [
        "ValueError: mutable default <class 'tensorrt_llm.plugin.plugin.PluginConfig'> for field plugin_config "
        "is not allowed: use default_factory"
    ],
    "MM681": [
        "The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.9"
    ],
    "MM682": ["satisfyProfile Runtime dimension does not satisfy any optimization profile."],
    "MM683": [
        "build.py: error: unrecognized arguments: --bert_attention_plugin",
        "bash: --max_multimodal_len: command not found",
        "convert.py: error: argument --dtype: invalid choice: 'fp16' (choose from 'float16')",
    ],
    "MM684": [
        "KeyError: 'llava_llama'",
        "ValueError: model type `llava_next` but Transformers does not recognize this architecture.",
    ],
    "MM685": [
        "[TRT] [E] Networks with FP8 precision require hardware with FP8 support",
        "Fp8 FMHA cannot be enabled on Pre-Hopper Arch.",
        "Unsupported SM version for FP8 block scaling GEMM",
    ],
    "MM686": [
        "AssertionError: max_input_len should not be larger than max_seq_len",
        "max_seq_len 1024 can't be larger than max_position_embeddings 512",
    ],
    "MM687": ["Assertion failed: num_col_bytes = 2000 must be a multiple of 32"],
    "MM688": ["OSError: [Errno 28] No space left on device: 'rank0.safetensors'"],
    "MM689": ["NameError: name 'args' is not defined"],
    "MM690": [
        "ValueError: Unrecognized configuration class <class "
        "'transformers.models.llava.configuration_llava.LlavaConfig'> for this kind of AutoModel."
    ],
}

# Each resembles a known line but is harmless.
ORDINARY = """\
[TensorRT-LLM] TensorRT-LLM version: 0.10.0
[TRT] [I] Succeeded parsing visual_engines/llava/onnx/visual_encoder.onnx
[TRT-LLM] [I] Set dtype to float16. Engine world size 2, Runtime world size 2
[TRT-LLM] [W] Unsupported quant algo: NVFP4, supported algos: dict_keys(['FP8'])
[TRT] [I] [MemUsageChange] Init CUDA: CPU +14, GPU +0, now: CPU 125, GPU 533 (MiB)
[TRT-LLM] [I] Loading tmp/trt_models/opt/fp16/2-gpu/rank1.safetensors
[TRT-LLM] [I] max_seq_len is not specified, using value 4096; max_input_len is 1024
[TRT-LLM] [I] Compute capability: (9, 0); SM count: 132
The quick-response team skilled in this, and Overkilled puns
Weights loaded. Total time: 00:00:12
usage: trtllm-build [-h] [--max_workers MAX_WORKERS]
Total time of converting checkpoints: 00:01:02
""".splitlines()


def lines_of(version: str) -> dict[str, KnownLine]:
    return {row.code: row for row in known_lines(version)}


def test_every_row_has_an_example_and_an_explanation() -> None:
    used = {row.code for version in SUPPORTED for row in known_lines(version)}
    assert used == set(get_args(LogCode)) == set(SAID)
    assert used <= set(codes())


@pytest.mark.parametrize(("code", "line"), [(code, line) for code, lines in SAID.items() for line in lines])
def test_a_known_line_is_found_and_explained(code: str, line: str) -> None:
    version = next(version for version in SUPPORTED if code in lines_of(version))
    row = lines_of(version)[code]
    (remark,) = scan([*ORDINARY[:2], f"  {line}\n", *ORDINARY[2:], line], version)
    assert (remark.finding.code, remark.line, remark.severity) == (code, 3, row.severity)
    assert line[:200] in remark.finding.message
    assert remark.finding.hint


@pytest.mark.parametrize("version", SUPPORTED)
def test_an_ordinary_log_has_no_findings(version: str) -> None:
    assert scan(ORDINARY, version) == ()


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_line_that_means_something_else_in_a_version_is_silent_there(version: str) -> None:
    others = {code for other in SUPPORTED for code in lines_of(other)} - set(lines_of(version))
    assert others
    for code in others:
        assert scan(SAID[code], version) == ()


def test_findings_come_in_the_order_of_the_log() -> None:
    lines = [SAID["MM688"][0], SAID["MM670"][0], SAID["MM688"][0]]
    assert [(item.line, item.finding.code) for item in scan(lines, "1.2")] == [(1, "MM688"), (2, "MM670")]
