"""Both sides of ``benchmarks.against_vllm``: each is measured in its own process through its public API.

``python -m benchmarks.against_vllm_sides JOB``: JOB is a :class:`Job` as JSON. vLLM's process imports nothing of
mmbuild.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.against_vllm_rows import OURS, Row, append

TOKENS = 129
FIRST_RUNS, WHOLE_RUNS = 5, 3
PROMPT = "USER: <image>\nWhat is in this picture? Please answer in one sentence of plain English. ASSISTANT:"
TINY_PROMPT = "<image> how many shapes ?"
LONGEST = 1024 + TOKENS


@dataclass(frozen=True, slots=True)
class Job:
    """What one process measures.

    Attributes:
        side: ``ours`` or ``vllm``.
        form: Format of the weights.
        batches: Numbers of requests.
        command: Id of the command.
        date: Day of the command.
        room: Directory for engines.
        model: Directory with config, tokenizer and processor, without weights.
        out: File of rows.
        until: Moment (``time.time``) after which no batch is started.
        tiny: A small model, on a CPU.
    """

    side: str
    form: str
    batches: Sequence[int]
    command: str
    date: str
    room: str
    model: str
    out: str
    until: float
    tiny: bool

    @property
    def prompt(self) -> str:
        """The text of every request."""
        return TINY_PROMPT if self.tiny else PROMPT

    def to_json(self) -> str:
        """The command line's JOB."""
        return json.dumps(asdict(self))


class Side(Protocol):
    """An engine as its users have it."""

    def prepare(self, pictures: Sequence[Any]) -> Any:
        """Requests about ``pictures``, one each: as far as they get without the engine."""

    def run(self, requests: Any, tokens: int) -> list[tuple[Sequence[int], int]]:
        """Generate ``tokens`` tokens for each request, greedily, whatever they are.

        Returns:
            Token ids of each prompt, and the number of tokens that were generated for it.
        """


@dataclass(frozen=True, slots=True)
class Figures:
    """What :func:`measure` finds; as in :class:`Row`, with ``pixels_ms`` for every side."""

    prompt_tokens: int
    ids: str
    ttft_ms: float
    step_ms: float
    pixels_ms: float


def measure(
    side: Side, pictures: Iterator[Sequence[Any]], clock: Callable[[], float] = time.perf_counter
) -> Figures:
    """Medians of several runs, each with new pictures, after one that compiles and captures what is needed.

    Args:
        side: The engine.
        pictures: PIL pictures of one batch after the other.
        clock: Seconds.

    Raises:
        RuntimeError: A request has another number of new tokens than was requested.
    """
    prompts: list[Sequence[int]] = []

    def once(tokens: int) -> tuple[float, float]:
        """Milliseconds from the pictures, and from the prepared requests."""
        shown = next(pictures)
        begin = clock()
        requests = side.prepare(shown)
        prepared = clock()
        seen = side.run(requests, tokens)
        end = clock()
        if [count for _, count in seen] != [tokens] * len(shown):
            raise RuntimeError(f"{len(shown)} requests for {tokens} tokens: got {[n for _, n in seen]}")
        prompts[:] = [ids for ids, _ in seen]
        return (end - begin) * 1e3, (end - prepared) * 1e3

    once(TOKENS)
    once(1)
    first = [once(1) for _ in range(FIRST_RUNS)]
    ttft = statistics.median(whole for whole, _ in first)
    whole = statistics.median(once(TOKENS)[0] for _ in range(WHOLE_RUNS))
    ids = json.dumps([list(map(int, own)) for own in prompts])
    return Figures(
        prompt_tokens=max(map(len, prompts)),
        ids=hashlib.sha256(ids.encode()).hexdigest()[:12],
        ttft_ms=round(ttft, 3),
        step_ms=round((whole - ttft) / (TOKENS - 1), 4),
        pixels_ms=round(statistics.median(pixels for _, pixels in first), 3),
    )


def pictures_of(batch: int, pixels: int) -> Iterator[list[Any]]:
    """Batches of pictures of noise, all different; the same ones for both sides."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(batch)
    while True:
        size = (pixels, pixels, 3)
        yield [Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)) for _ in range(batch)]


class Ours:
    """An engine directory of mmbuild."""

    def __init__(self, directory: Path, prompt: str) -> None:
        from mmbuild.backends.torch import Engine

        self.engine, self.prompt = Engine.load(directory), prompt

    def prepare(self, pictures: Sequence[Any]) -> Any:
        return self.engine.encode(pictures, [self.prompt] * len(pictures))

    def run(self, requests: Any, tokens: int) -> list[tuple[Sequence[int], int]]:
        answers = self.engine.run(requests, self.engine.stopping(tokens, ignore_eos=True)).answers
        pairs = zip(requests, answers, strict=True)
        return [(request.ids, len(answer.token_ids)) for request, answer in pairs]


# Only the language model's layers are quantized, as ours. Fp8: one scale for each weight, and one for its inputs.
_TOWER = [
    f"vision_tower.vision_model.encoder.layers.{layer}.{name}"
    for layer in range(48)
    for name in ("self_attn.qkv_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
]
_PROJECTOR = ["multi_modal_projector.linear_1", "multi_modal_projector.linear_2"]
VLLM_QUANTIZATION: dict[str, tuple[str | None, dict[str, Any] | None]] = {
    "fp16": (None, None),
    "awq": (
        "awq_marlin",
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": ["vision_tower", "multi_modal_projector", "lm_head"],
        },
    ),
    "fp8": (
        "fp8",
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": [*_TOWER, *_PROJECTOR]},
    ),
}


class Vllm:
    """vLLM's ``LLM`` with random weights, without caches of prefixes and pictures."""

    def __init__(self, job: Job) -> None:
        from vllm import LLM, SamplingParams

        self.prompt, self.parameters = job.prompt, SamplingParams
        method, quantization = VLLM_QUANTIZATION[job.form]
        self.llm = LLM(
            model=str(_described(job, quantization)),
            load_format="dummy",
            dtype="float16",
            quantization=method,
            max_model_len=LONGEST,
            max_num_seqs=32,
            gpu_memory_utilization=0.6,
            limit_mm_per_prompt={"image": 1},
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
        )

    def prepare(self, pictures: Sequence[Any]) -> Any:
        return [{"prompt": self.prompt, "multi_modal_data": {"image": one}} for one in pictures]

    def run(self, requests: Any, tokens: int) -> list[tuple[Sequence[int], int]]:
        sampling = self.parameters(temperature=0, max_tokens=tokens, ignore_eos=True)
        answers = self.llm.generate(requests, sampling, use_tqdm=False)
        return [(one.prompt_token_ids, len(one.outputs[0].token_ids)) for one in answers]


def _described(job: Job, quantization: dict[str, Any] | None) -> Path:
    """The model's directory, or a copy whose config.json describes the quantization."""
    model = Path(job.model)
    if quantization is None:
        return model
    copy = Path(job.room) / f"vllm-{job.form}"
    copy.mkdir(exist_ok=True)
    for file in model.iterdir():
        (copy / file.name).unlink(missing_ok=True)
        (copy / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text()) | {"quantization_config": quantization}
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config, indent=1))
    return copy


def _sides(job: Job) -> Iterator[tuple[Side, list[int]]]:
    """Engines, each with its batches; at most one at a time."""
    if job.side != OURS:
        yield Vllm(job), list(job.batches)
        return
    from benchmarks.against_vllm_engines import build

    for directory, batches in build(job):
        yield Ours(directory, job.prompt), batches


def _machine() -> str:
    """The GPU, or the cores."""
    import torch

    from benchmarks.report import machine

    return torch.cuda.get_device_name() if torch.cuda.is_available() else machine()


def _software(side: str) -> str:
    """Versions of what is measured."""
    from importlib import metadata

    if side == OURS:
        from mmbuild._version import __version__

        own = f"mmbuild {__version__}"
    else:
        own = f"vllm {metadata.version('vllm')}"
    return ", ".join([own, *(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))])


def work(job: Job) -> None:
    """Measure what the job names; each row is written as soon as it is known."""
    import torch

    config = json.loads((Path(job.model) / "config.json").read_text())
    pixels = config.get("vision_config", {}).get("image_size", 336)
    for side, batches in _sides(job):
        for batch in batches:
            if time.time() > job.until:
                return
            figures = asdict(measure(side, pictures_of(batch, pixels)))
            if job.side != OURS:
                figures["pixels_ms"] = None
            labels = (job.command, job.date, _machine(), _software(job.side), job.side, job.form, batch)
            append(Path(job.out), Row(*labels, **figures))
        del side
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main() -> int:
    """Returns the exit status."""
    try:
        work(Job(**json.loads(sys.argv[1])))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # without waiting for the threads of an engine
