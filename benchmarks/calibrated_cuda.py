"""AWQ, SmoothQuant and FP8 on one GPU at the shapes of LLaVA-1.5-7B: calibrate, compile, load, ask; beside float16.

`python -m benchmarks.calibrated_cuda --dir DIR` needs a CUDA GPU, Model Optimizer and 50 GB of disk in DIR. Small
layers and engines are held against float32 first. Then the product's own steps run: quantize on generated pictures,
build_llm (packages compile in processes side by side), build_visual, assemble; each engine is asked about a picture.
Every part has a process of its own, so that one may fail; rows are printed as JSON as soon as they are known, logs
stay in DIR/logs. Random weights say nothing of quality; that logits correlate with those of the unquantized model
says that kernels of this size compute what they should. Share is (bytes of weights read per token + live KV bytes) /
copy bandwidth / time per token, all of one run.

`--device cpu --tiny` tries everything on a CPU at small shapes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.calibrated_setting import PACKAGES, VARIANTS, Setting

# What is left of the time for everything when compilers are given up, and when nothing more is begun.
_TO_MEASURE, _TO_END = 100, 12


@dataclass
class Jobs:
    """Processes that run parts, and what they said.

    Attributes:
        setting: Of all parts.
        arguments: The command line to repeat.
        deadline: Moment (``time.monotonic``) by which everything ends.
        variants: Of :data:`VARIANTS`, those that are built.
        running: By the part's name.
    """

    setting: Setting
    arguments: list[str]
    deadline: float
    variants: list[str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    @property
    def calibrated(self) -> list[str]:
        """Variants that are fitted."""
        return [variant for variant in self.variants if VARIANTS[variant] is not None]

    def start(self, *part: str, threads: int = 1) -> None:
        """Begin a part."""
        name = "-".join(part)
        command = [sys.executable, "-m", "benchmarks.calibrated_cuda", *self.arguments, "--part", *part]
        bins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {
            **os.environ,
            "PATH": bins,  # ninja, for Model Optimizer's extension
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_COMPILE_THREADS": os.environ.get("TORCHINDUCTOR_COMPILE_THREADS", "4"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        }
        with self._log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def _log(self, name: str) -> Path:
        return self.setting.room / "logs" / f"{name}.log"

    def wait(self, *names: str, until: float | None = None) -> None:
        """Until all of them have ended; those that have not by the moment ``until`` are stopped."""
        left = set(names or self.running)
        while left:
            late = time.monotonic() > (until or self.deadline)
            for name in sorted(left):
                job = self.running[name]
                if late and job.poll() is None:
                    job.kill()
                    job.wait()
                if job.poll() is not None:
                    left.remove(name)
                    self._tell(name, self.running.pop(name).returncode)
            time.sleep(0.1)

    def run(self, *part: str, threads: int = 8) -> None:
        """Begin a part and wait for it."""
        if time.monotonic() < self.deadline - _TO_END:
            self.start(*part, threads=threads)
            self.wait("-".join(part))
        else:
            print(f'{{"row": "SKIPPED", "what": "{" ".join(part)}", "why": "no time left"}}', flush=True)

    def _tell(self, name: str, code: int) -> None:
        lines = self._log(name).read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith("{"):
                print(line, flush=True)
        if code != 0:
            self.failed.add(name)
            print(f"FAILED {name} ({code}):", "\n".join(lines)[-2500:], sep="\n", flush=True)


def build(jobs: Jobs, threads: int) -> None:
    """Everything that engines are put together from: compilers beside calibration, which the GPU does."""
    jobs.run("model")
    for package in PACKAGES:
        for variant in jobs.variants:
            jobs.start("compile", variant, package)
    for variant in jobs.calibrated:
        jobs.start("calibrate", variant, threads=threads)
        jobs.start("check", variant)
    jobs.start("visual")
    if "none" in jobs.variants:
        jobs.start("convert", threads=threads)
    jobs.wait(until=jobs.deadline - _TO_MEASURE)


def measure_all(jobs: Jobs) -> None:
    """One after the other, on a quiet machine."""
    jobs.run("transformers")
    for variant in jobs.variants:
        needed = {f"compile-{variant}-prefill", f"compile-{variant}-decode", f"calibrate-{variant}"}
        if not needed & jobs.failed:
            jobs.run("engine", variant)


def build_one_by_one(jobs: Jobs) -> None:
    """The same on a machine of few cores."""
    for part in (("model",), ("convert",), ("visual",)):
        jobs.run(*part, threads=1)
    for variant in jobs.calibrated:
        jobs.run("check", variant, threads=1)
        jobs.run("calibrate", variant, threads=1)
    for variant in jobs.variants:
        for package in PACKAGES:
            jobs.run("compile", variant, package, threads=1)


def main() -> None:
    from benchmarks.calibrated_parts import PARTS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory with 50 GB of room")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, one part after the other")
    parser.add_argument("--samples", type=int, default=16, help="pictures shown while calibrating")
    parser.add_argument("--limit", type=int, default=410, help="seconds after which nothing more is begun")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--data-free", action="store_true", help="fit nothing: scales from weights alone")
    parser.add_argument("--part", nargs="+", help="one part (used by this script itself)")
    arguments = parser.parse_args()
    room = arguments.dir.absolute()
    setting = Setting(room, arguments.device, arguments.tiny, arguments.samples, arguments.data_free)
    if arguments.part:
        name, *rest = arguments.part
        PARTS[name](setting, *rest)
        return
    (room / "logs").mkdir(parents=True)
    repeated = ["--dir", str(room), "--device", arguments.device, "--samples", str(arguments.samples)]
    repeated += ["--tiny"] * arguments.tiny + ["--data-free"] * arguments.data_free
    jobs = Jobs(setting, repeated, time.monotonic() + arguments.limit, arguments.only)
    started = time.monotonic()
    if arguments.tiny:
        build_one_by_one(jobs)
    else:
        build(jobs, threads=max(1, (os.cpu_count() or 1) // 4))
    print(f'{{"row": "everything built", "seconds": {time.monotonic() - started:.1f}}}', flush=True)
    measure_all(jobs)
    print(f'{{"row": "end", "seconds": {time.monotonic() - started:.1f}}}', flush=True)


if __name__ == "__main__":
    main()
