"""mmbuild and vLLM on one GPU at LLaVA-1.5-7B's shapes, with random weights: time per token and to the first token.

    python -m benchmarks.against_vllm --dir DIR --llava MODEL --vllm SITE --out rows.jsonl
        [--formats fp16 awq ...] [--batches 1 2 ...] [--minutes 8]

MODEL has LLaVA's config, tokenizer and processor; SITE is the directory in which vLLM is installed, which only vLLM's
process sees. Both answer the same prompt about the same PIL pictures, which differ per request, through their public
API, greedily, with caches of prefixes and pictures off. A step is (t(129 tokens) - t(1 token)) / 128, and the first
token includes preprocessing the pictures; for ours it is also measured from preprocessed pictures. Medians of 3 to 5.

A command appends rows to a file and measures only what the file lacks, so several commands fill one table. Ratios
compare rows of one command: if it measured only one side of a pair, the next command measures both again. int8 and
int4 are measured without vLLM.

Without `--vllm` only ours is measured. `--tiny --llava examples/models/llava-shapes` tries everything on a CPU.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import against_vllm_rows as rows
from benchmarks.against_vllm_rows import OURS, VLLM
from benchmarks.against_vllm_sides import Job

ROOT = Path(__file__).parents[1]
FORMATS: Mapping[str, tuple[str, ...]] = {
    "fp16": (OURS, VLLM),
    "awq": (OURS, VLLM),
    "fp8": (OURS, VLLM),
    "int8": (OURS,),
    "int4": (OURS,),
}
BATCHES = (1, 2, 4, 8, 16, 32)
# Seconds until the first batch is measured (ours: building the engine), and for one batch; on an H200, generously.
START: Mapping[str, float] = {OURS: 120, VLLM: 130}
EACH = 14
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    OURS: {"MMBUILD_STEPS": "benchmarks.against_vllm_engines:TABLE"},
    VLLM: {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine is in the process that measures, as ours
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    },
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        id: Its name in rows.
        date: Its day.
        deadline: Moment (``time.time``) by which it ends.
        room: Directory for engines and logs.
        model: Directory with config, tokenizer and processor.
        site: Directory in which vLLM is installed; None: only ours is measured.
        out: File of rows.
        tiny: A small model, on a CPU.
    """

    id: str
    date: str
    deadline: float
    room: Path
    model: Path
    site: Path | None
    out: Path
    tiny: bool = False

    def sides(self, form: str) -> tuple[str, ...]:
        """The sides that are measured in a format."""
        return FORMATS[form] if self.site else (OURS,)

    def start(self, side: str) -> float:
        """Expected seconds before a side's first batch."""
        return 0 if self.tiny else START[side]

    @property
    def each(self) -> float:
        """Expected seconds for one batch."""
        return 0 if self.tiny else EACH


def run(command: Command, formats: Sequence[str], batches: Sequence[int]) -> None:
    """Measure what is missing, as far as the time suffices."""
    sides = {form: command.sides(form) for form in formats}
    for form, wanted in rows.missing(rows.read(command.out), sides, batches).items():
        fitting = wanted[: _fitting(command, sides[form])]
        if not fitting:
            print(f"{form}: no time left for batches {wanted}", flush=True)
            continue
        if fitting != wanted:
            print(f"{form}: no time left for batches {wanted[len(fitting) :]}", flush=True)
        measure_format(command, form, fitting)


def _fitting(command: Command, sides: Sequence[str]) -> int:
    """The number of batches for which the time suffices on all sides."""
    left = command.deadline - time.time() - sum(map(command.start, sides))
    if command.tiny:
        return len(BATCHES) if left > 0 else 0
    return max(0, int(left / (command.each * len(sides))))


def measure_format(command: Command, form: str, batches: Sequence[int]) -> None:
    """Measure all sides of one format, one after the other; a side that fails ends it."""
    sides = command.sides(form)
    for number, side in enumerate(sides):
        later = sum(command.start(other) + command.each * len(batches) for other in sides[number + 1 :])
        job = Job(
            side=side,
            form=form,
            batches=batches,
            command=command.id,
            date=command.date,
            room=str(command.room),
            model=str(command.model),
            out=str(command.out),
            until=command.deadline - later - command.each,
            tiny=command.tiny,
        )
        began = time.time()
        code = run_side(command, job)
        print(f"{form} {side}: {time.time() - began:.0f} s", flush=True)
        if code:
            return


def run_side(command: Command, job: Job) -> int:
    """Measure in a process, at most until the command's deadline; returns its exit status and prints failures."""
    log = command.room / f"{command.id}-{job.form}-{job.side}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.against_vllm_sides", job.to_json()],
            cwd=ROOT,
            env=_environment(command, job.side),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(max(1, command.deadline - time.time()))
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        why = "no time left" if code == -signal.SIGKILL else f"failed ({code})"
        print(f"{job.form} {job.side}: {why}; the end of its log:", flush=True)
        print(log.read_text(errors="replace")[-3000:], flush=True)
    return code


def _environment(command: Command, side: str) -> dict[str, str]:
    """The environment of a side's process. Only vLLM's sees vLLM's packages, and it sees nothing of mmbuild's."""
    if side == VLLM:
        path = str(command.site)
    else:  # workers of mmbuild import a step from this package
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **ENVIRONMENT[side], "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, required=True, help="engines and logs; 60 GB")
    parser.add_argument("--llava", type=Path, required=True, help="config, tokenizer and processor of LLaVA")
    parser.add_argument("--vllm", type=Path, help="the directory in which vLLM is installed")
    parser.add_argument("--out", type=Path, required=True, help="file of rows (JSON lines)")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--batches", nargs="+", type=int, choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--minutes", type=float, default=8, help="no work is started that would take longer")
    parser.add_argument(
        "--tiny", action="store_true", help="a small model on a CPU, with expected times of 0 s"
    )
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    command = Command(
        id=time.strftime("%m%d-%H%M-", time.gmtime()) + secrets.token_hex(2),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        deadline=time.time() + 60 * arguments.minutes,
        room=arguments.dir.absolute(),
        model=arguments.llava.absolute(),
        site=arguments.vllm and arguments.vllm.absolute(),
        out=arguments.out.absolute(),
        tiny=arguments.tiny,
    )
    run(command, arguments.formats, arguments.batches)
    print(rows.table(rows.read(command.out), list(FORMATS)))


if __name__ == "__main__":
    main()
