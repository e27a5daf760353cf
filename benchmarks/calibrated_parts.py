"""The parts of ``benchmarks.calibrated_cuda``, each of which runs in a process of its own and prints its rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.calibrated_setting import GROUP, VARIANTS, Setting, say, size_of, timed
from benchmarks.llava_cuda import BASELINE_TOKENS, NEW_TOKENS, PROMPT, picture

# Tokens along which an engine's logits are held against those of transformers.
_COMPARED = 8
# A largest magnitude of inputs for FP8 where nothing could be measured.
_ASSUMED_AMAX = 16.0


@contextmanager
def host_peak() -> Iterator[list[float]]:
    """Peak of this process's anonymous memory, GB, in a list once it is over."""
    from mmbuild.core.execution.memory_sampler import anonymous

    peak, over, result = [0], threading.Event(), []

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield result
    finally:
        over.set()
        watcher.join()
        result.append(max(peak[0], anonymous()) / 1e9)


def gpu_peak(setting: Setting) -> float | None:
    """Of this process, GB."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if setting.device == "cuda" else None


def model(setting: Setting) -> None:
    """Random weights, tokenizer, config."""
    from mmbuild.base.progress import silent
    from mmbuild.models.families import part
    from mmbuild.models.sources import random_weights

    out, config = setting.room / "model", setting.config()
    out.mkdir()
    part("llava", "processor").write_stand_in(config, out)
    shapes = part("llava", "reference").tensor_shapes(config)
    seconds, _ = timed(lambda: random_weights.write_weights(config, shapes, out, 0, setting.dtype, silent))
    say(row="random weights", seconds=seconds, GB=size_of(out, "*.safetensors") / 1e9)


def convert(setting: Setting) -> None:
    """The unquantized checkpoint."""
    from mmbuild.backends.lowering import step_params

    params = step_params.convert(setting.facts(), setting.dtype, 1)
    with host_peak() as peak:
        seconds = setting.step("convert", "checkpoint-none", params, inputs={"model": "model"})
    size = size_of(setting.room / "checkpoint-none", "*.safetensors") / 1e9
    say(row="checkpoint", variant="none", GB=size, seconds=seconds, peak_host_GB=peak[0])


def calibrate(setting: Setting, variant: str) -> None:
    """The product's own step on generated pictures; scales without data where Model Optimizer does not run."""
    from mmbuild.base.errors import MmbuildError

    if setting.data_free:
        seconds, _ = timed(lambda: data_free(setting, variant))
        size = size_of(setting.room / f"checkpoint-{variant}", "*.safetensors") / 1e9
        say(row="checkpoint", variant=variant, scales="absmax of the weights alone", GB=size, seconds=seconds)
        return
    extension = _extension(setting, variant)
    phases = _Phases()
    with host_peak() as peak:
        try:
            seconds = setting.step(
                "quantize",
                f"checkpoint-{variant}",
                quantize_params(setting, variant),
                inputs={"model": "model"},
                progress=phases,
            )
            scales = "fitted"
        except (ImportError, MmbuildError, RuntimeError) as error:
            say(row="FAILED", what=f"calibrate {variant}", why=str(error)[:500])
            seconds, _ = timed(lambda: data_free(setting, variant))
            scales = "absmax of the weights alone: Model Optimizer did not run"
    say(
        row="checkpoint",
        variant=variant,
        scales=scales,
        samples=setting.samples,
        GB=size_of(setting.room / f"checkpoint-{variant}", "*.safetensors") / 1e9,
        seconds=seconds,
        **{f"{name} s": spent for name, spent in phases.seconds().items()},
        optimizer_extension_s=extension,
        peak_GPU_GB=gpu_peak(setting),
        peak_host_GB=peak[0],
    )


def quantize_params(setting: Setting, variant: str) -> dict[str, Any]:
    """Parameters of the step quantize."""
    from mmbuild.backends.lowering import step_params
    from mmbuild.models.validation.prompts import DEFAULT_PROMPTS

    facts = setting.facts()
    return {
        **step_params.convert(facts, setting.dtype, 1),
        "algorithm": variant,
        "group_size": GROUP if variant == "int4_awq" else None,
        "image_size": list(facts.visual.image_size),
        "calibration": {"samples": setting.samples, "seed": 0, "prompts": list(DEFAULT_PROMPTS)},
    }


class _Phases:
    """Progress that keeps when each part of a calibration began."""

    def __init__(self) -> None:
        self.began = [("start", time.perf_counter())]

    def __call__(self, message: str, _: float | None) -> None:
        phase = message.partition(",")[0]
        if not phase.startswith(("pass ", "load ")):
            phase = "start" if "generated pictures" in message else "write"
        if phase != self.began[-1][0]:
            self.began.append((phase, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Of each part. A message comes at the end of a sample: passes begin with their second one."""
        ends = [*(moment for _, moment in self.began[1:]), time.perf_counter()]
        return {name: end - began for (name, began), end in zip(self.began, ends, strict=True)}


def _extension(setting: Setting, variant: str) -> float | None:
    """Seconds that Model Optimizer takes to compile or load its CUDA extension, before anything is timed."""
    if setting.device != "cuda":
        return None
    try:
        from modelopt.torch.quantization import extensions
    except ImportError:
        return None
    load = extensions.get_cuda_ext_fp8 if variant == "fp8" else extensions.get_cuda_ext
    seconds, made = timed(load)
    return seconds if made is not None else None


def data_free(setting: Setting, variant: str) -> None:
    """A checkpoint whose scales come from weights alone."""
    import shutil

    out = setting.room / f"checkpoint-{variant}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    write_data_free(setting.room / "model", out, variant, setting.facts().llm, setting.dtype)


def write_data_free(model: Path, out: Path, variant: str, llm: Any, dtype: str) -> None:
    """Write a checkpoint of LLaVA's language model without calibration: no smoothing, an assumed magnitude of inputs.

    Args:
        model: Directory of the model.
        out: An empty directory.
        variant: A calibrated one of :data:`VARIANTS`.
        llm: Facts of the language model.
        dtype: Dtype of what is not quantized.
    """
    import torch

    from mmbuild.backends.torch.calibration.apply_scales import source_names
    from mmbuild.backends.torch.calibration.fit_scales import LayerFit
    from mmbuild.backends.torch.calibration.write import write
    from mmbuild.models.checkpoint.config import CheckpointConfig
    from mmbuild.models.checkpoint.tensor_table import tensors

    group = GROUP if variant == "int4_awq" else None
    found = {
        name: LayerFit(None, _ASSUMED_AMAX) if variant == "fp8" else LayerFit(torch.ones(part.shape[1]), None)
        for spec in tensors(llm)
        if spec.quantizable
        for part, name in zip(spec.parts, source_names(spec), strict=True)
    }
    write(model, out, "llava", CheckpointConfig(llm, dtype, 1, VARIANTS[variant], group), found)


def visual(setting: Setting) -> None:
    """Tower and projector."""
    from mmbuild.backends.lowering import step_params

    shape = step_params.visual_shape("llava", {"model": setting.config()})
    params = step_params.build_visual(setting.facts(), shape, setting.dtype, setting.dtype, 1)
    say(row="visual", seconds=setting.step("build_visual", "visual", params))
    weights = step_params.convert_visual("llava", shape, setting.dtype)
    seconds = setting.step("convert_visual", "visual-weights", weights, inputs={"model": "model"})
    say(row="visual weights", seconds=seconds)


def compile_package(setting: Setting, variant: str, package: str) -> None:
    """Export and compile one package of one variant."""
    import json

    from mmbuild.backends.torch import export
    from mmbuild.backends.torch.config import from_json

    out = setting.room / f"llm-{variant}"
    out.mkdir(exist_ok=True)
    config = from_json(setting.engine_params(variant))
    path = out / f"{package}.pt2"
    with host_peak() as peak:
        traced, program = timed(lambda: export.export_package(config, package, setting.device))
        compiled, _ = timed(lambda: export.compile_package(program, path, setting.target()))
    (out / "llm.json").write_text(json.dumps(config.to_json()))
    say(
        row="package",
        variant=variant,
        package=package,
        export_s=traced,
        compile_s=compiled,
        MB=path.stat().st_size / 1e6,
        peak_host_GB=peak[0],
    )


def engine(setting: Setting, variant: str) -> None:
    """Load an engine, hold its logits against transformers', ask it twice (the first run captures graphs)."""
    import cProfile

    import torch

    started = time.perf_counter()
    torch.zeros(1, device=setting.device)
    device_ready = time.perf_counter() - started
    from mmbuild.backends.lowering import step_params
    from mmbuild.backends.torch import Engine

    params = step_params.assemble(setting.facts(), {"torch": torch.__version__})
    inputs = {
        "checkpoint": f"checkpoint-{variant}",
        "llm": f"llm-{variant}",
        "visual": "visual",
        "visual_weights": "visual-weights",
        "model": "model",
    }
    setting.step("assemble", f"engine-{variant}", params, inputs=inputs)
    with host_peak() as peak:
        profiler = cProfile.Profile()
        loaded, ours = timed(lambda: profiler.runcall(Engine.load, setting.room / f"engine-{variant}"))
        profiler.dump_stats(setting.room / "logs" / f"load-{variant}.prof")
        requests = ours.encode([[picture()]], [PROMPT])
        agreement = _agreement(setting, ours, requests)
        stopping = ours.stopping(NEW_TOKENS, ignore_eos=True)
        first, _ = timed(lambda: ours.run(requests, stopping))
        profile = ours.run(requests, stopping).profile
    per_token = profile.decode_seconds / profile.steps
    llm = ours.config
    embedding = llm.vocab_size * llm.hidden_size * llm.torch_dtype.itemsize
    live = (profile.prompt_tokens + NEW_TOKENS / 2) * llm.kv_bytes_per_token
    read = ours.session.weight_bytes - embedding + live
    bandwidth = copy_bandwidth(setting)
    say(
        row="engine",
        variant=variant,
        weights_GB=ours.session.weight_bytes / 1e9,
        device_ready_s=device_ready,
        load_s=loaded,
        first_answer_s=first,
        visual_ms=profile.visual_seconds * 1e3,
        prefill_ms=profile.prefill_seconds * 1e3,
        prompt_tokens=profile.prompt_tokens,
        ms_per_token=per_token * 1e3,
        tokens_per_s=1 / per_token,
        read_GB_per_token=read / 1e9,
        copy_TB_per_s=bandwidth / 1e12,
        share=read / bandwidth / per_token,
        peak_GPU_GB=profile.peak_bytes / 1e9 if setting.device == "cuda" else None,
        peak_host_GB=peak[0],
        **agreement,
    )


def _agreement(setting: Setting, ours: Any, requests: Any) -> dict[str, Any]:
    """Correlation of logits with those that transformers' unquantized model has after the same tokens."""
    import torch

    path = setting.room / "reference.pt"
    if not path.exists():
        return {}
    kept = torch.load(path)
    prompts, table = ours.inputs(requests)
    logits = [ours.session.prefill(prompts, table).float().cpu().clone()]
    for token in kept["tokens"][:-1]:
        logits.append(ours.session.decode(torch.tensor([token], device=setting.device)).float().cpu().clone())
    pairs = zip(torch.cat(logits), kept["logits"], strict=True)
    alike = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
    finite = all(bool(torch.isfinite(row).all()) for row in logits)
    return {"finite": finite, "correlation_prefill": alike[0], "correlation_decode_least": min(alike[1:])}


def copy_bandwidth(setting: Setting) -> float:
    """Bytes read and written per second of a copy on the device."""
    import torch

    source = torch.zeros(
        1 << (32 if setting.device == "cuda" else 26), dtype=torch.int8, device=setting.device
    )
    sink = torch.empty_like(source)
    wait: Callable[[], Any] = torch.cuda.synchronize if setting.device == "cuda" else lambda: None
    for _ in range(3):
        sink.copy_(source)
    wait()
    seconds, _ = timed(lambda: ([sink.copy_(source) for _ in range(10)], wait()))
    return 20 * source.numel() / seconds


def transformers(setting: Setting) -> None:
    """The same question to transformers' eager generate; its logits are kept for the engines."""
    import torch

    from mmbuild.models.families.processor import encode, load_processor
    from mmbuild.models.families.reference import continue_greedily, load_reference

    sources = {"model": setting.room / "model"}
    with host_peak() as peak:
        loaded, reference = timed(lambda: load_reference("llava", sources, setting.dtype, setting.device))
        request = encode(load_processor(setting.room / "model", "llava"), PROMPT, [picture()])
        kept = continue_greedily(reference, request, _COMPARED)
        torch.save({"tokens": list(kept.tokens), "logits": kept.logits}, setting.room / "reference.pt")
        first, _ = timed(lambda: continue_greedily(reference, request, 1))
        whole, _ = timed(lambda: continue_greedily(reference, request, BASELINE_TOKENS))
    per_token = (whole - first) / (BASELINE_TOKENS - 1)
    say(
        row="transformers generate, eager",
        variant=setting.dtype,
        load_s=loaded,
        visual_and_prefill_ms=first * 1e3,
        ms_per_token=per_token * 1e3,
        tokens_per_s=1 / per_token,
        peak_GPU_GB=gpu_peak(setting),
        peak_host_GB=peak[0],
    )


def check(setting: Setting, variant: str) -> None:
    """Small layers and a small engine against what their tensors stand for."""
    from benchmarks.calibrated_check import check_engine, check_layers

    check_layers(setting, variant)
    check_engine(setting, variant)


PARTS: Mapping[str, Callable[..., None]] = {
    "model": model,
    "convert": convert,
    "calibrate": calibrate,
    "visual": visual,
    "compile": compile_package,
    "engine": engine,
    "transformers": transformers,
    "check": check,
}
