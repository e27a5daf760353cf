"""``python -m benchmarks.hand_over --dir DIR --vllm SITE``: every form of checkpoint in vLLM and in transformers.

Applies the demo recipes of backend hf in every form and asks each checkpoint the same questions through both programs
on one GPU, greedily and one at a time. Neither process imports mmbuild. With ``--model`` also the model that
``benchmarks.real_decoder`` makes, whose decoder somebody else trained. SITE is the directory in which vLLM is
installed, which only vLLM's process sees; transformers' process sees the packages of this one.

When all have answered, steps are measured, one server after the other: vLLM without torch.compile, decode steps as
CUDA graphs, one sequence. With ``--quiet FILE`` not before that file exists.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hand_over import questions
from benchmarks.hand_over.table import HEAD, row

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLES = ROOT / "examples" / "calibration"
FORMS: Mapping[str, Mapping[str, Any]] = {
    "none": {"algorithm": "none"},
    "int8": {"algorithm": "int8"},
    "int4": {"algorithm": "int4"},
    "int4-g64": {"algorithm": "int4", "group_size": 64},
    "int4-awq-g64": {"algorithm": "int4_awq", "group_size": 64},
    "smoothquant": {"algorithm": "smoothquant"},
    "fp8": {"algorithm": "fp8"},
}
FITTED = ("int4-awq-g64", "smoothquant", "fp8")
_VLLM = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A checkpoint and what it is asked.

    Attributes:
        model: Name of the model.
        form: Its form.
        checkpoint: Its directory.
        questions: File of questions.
        tokens: The most tokens of an answer.
    """

    model: str
    form: str
    checkpoint: Path
    questions: Path
    tokens: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}-{self.form}"


def checkpoints(room: Path, model: Path | None) -> dict[tuple[str, str], Path]:
    """Checkpoints by model and form."""
    models = ("llava", "blip2-opt", *(("real",) if model is not None else ()))
    return {(name, form): room / "build" / f"{name}-{form}" for name in models for form in FORMS}


def build(room: Path, model: Path | None) -> None:
    """Write the :func:`checkpoints`."""
    import yaml

    from mmbuild import api

    loaded: list[Any] = []
    for family in ("llava", "blip2-opt"):
        for form, quantization in FORMS.items():
            data = {"calibration": {"data": str(SAMPLES / f"{family}.jsonl")}} if form in FITTED else {}
            changes = {
                "name": f"{family}-{form}",
                "engine.backend": "hf",
                "engine.dtype": "float16",
                "engine.quantization": {**quantization, **data},
                "verify": None,
            }
            sets = tuple(
                f"{key}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}"
                for key, value in changes.items()
            )
            loaded += api.load_recipe(ROOT / "recipes" / "demo" / f"{family}.yaml", sets)
    if model is not None:
        loaded += [one for form in FORMS for one in api.load_recipe(_recipe(room, model, form))]
    plan = api.plan(loaded, store=room / "store", build_dir=room / "build")
    began = time.monotonic()
    api.apply(plan, keep_going=True)
    print(f"{len(plan.builds)} checkpoints written in {time.monotonic() - began:.0f} s", flush=True)


def _recipe(room: Path, model: Path, form: str) -> Path:
    """A recipe beside a copy of the model and of the samples for fitting."""
    import yaml

    (room / "mmbuild.yaml").touch()
    for name in (model.name, "samples"):  # links lead out of the project
        if not (room / name).exists():
            shutil.copytree(model.parent / name, room / name)
    data = {"calibration": {"data": "samples/data.jsonl", "samples": 64}}
    engine = {
        "backend": "hf",
        "dtype": "float16",
        "quantization": {**FORMS[form], **(data if form in FITTED else {})},
        "max_input_len": 512,
        "max_output_len": 64,
    }
    recipe = {
        "version": 1,
        "name": f"real-{form}",
        "model": {"family": "llava", "source": f"./{model.name}"},
        "engine": engine,
    }
    path = room / f"real-{form}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def ask(case: Case, room: Path, site: Path) -> subprocess.Popen[str] | None:
    """Ask both programs; returns vLLM's process, which waits to be measured, or None if it failed."""
    log = (room / f"{case.name}.vllm.log").open("w")
    job = {
        "checkpoint": str(case.checkpoint),
        "questions": str(case.questions),
        "tokens": case.tokens,
    }
    out = room / f"{case.name}.vllm.json"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "vllm_side.py"), json.dumps({**job, "out": str(out)})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=room,
        env={**os.environ, **_VLLM, "PYTHONPATH": str(site)},
    )
    if not _said(process, "answered"):
        print(f"{case.name}: vLLM failed\n{(room / f'{case.name}.vllm.log').read_text()[-1500:]}", flush=True)
        return None
    theirs = {**job, "vllm": str(out), "out": str(room / f"{case.name}.transformers.json")}
    done = subprocess.run(
        [sys.executable, str(HERE / "transformers_side.py"), json.dumps(theirs)],
        capture_output=True,
        text=True,
        cwd=room,
        check=False,
    )
    if done.returncode:
        print(f"{case.name}: transformers failed\n{done.stderr[-1500:]}", flush=True)
    return process


def _said(process: subprocess.Popen[str], word: str) -> bool:
    """Whether a process prints a line with ``word``; ignores other lines."""
    assert process.stdout is not None
    return any(line.strip() == word for line in iter(process.stdout.readline, ""))


def measure(process: subprocess.Popen[str]) -> None:
    """Let a process measure, and end it."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    _said(process, "measured")
    process.wait(60)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """All checkpoints, with their questions."""
    room: Path = arguments.dir
    asked = {
        family: questions.of_demo(family, room / "pictures", arguments.questions)
        for family in ("llava", "blip2-opt")
    }
    asked["real"] = questions.of_real_decoder(sorted((SAMPLES / "pictures").glob("*.png")))
    for name, own in asked.items():
        questions.write(room / f"{name}.json", own)
    return [
        Case(model, form, path, room / f"{model}.json", 32)
        for (model, form), path in checkpoints(room, arguments.model).items()
        if form in arguments.forms
    ]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="checkpoints, answers and logs")
    parser.add_argument(
        "--vllm", type=Path, help="the directory in which vLLM is installed; else only builds"
    )
    parser.add_argument("--model", type=Path, help="the model of benchmarks.real_decoder")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--questions", type=int, default=48, help="to each demo model")
    parser.add_argument("--together", type=int, default=12, help="checkpoints that are asked at once")
    parser.add_argument(
        "--quiet", type=Path, help="file that is there once other work on the machine is over"
    )
    arguments = parser.parse_args(words)
    arguments.dir = arguments.dir.absolute()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    if arguments.vllm is None:
        build(arguments.dir, arguments.model)
        return
    own = [sys.executable, "-m", "benchmarks.hand_over", "--dir", str(arguments.dir)]
    own += ["--model", str(arguments.model.absolute())] if arguments.model else []
    # Actions have a GPU for themselves, and on cores they run side by side.
    subprocess.run(own, cwd=ROOT, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    wanted = cases(arguments)
    began = time.monotonic()
    with ThreadPoolExecutor(arguments.together) as pool:
        site = arguments.vllm.absolute()
        processes = list(pool.map(lambda case: ask(case, arguments.dir, site), wanted))
    print(f"asked in {time.monotonic() - began:.0f} s", flush=True)
    while arguments.quiet is not None and not arguments.quiet.exists():
        time.sleep(1)
    for process in processes:
        if process is not None:
            measure(process)
    print(HEAD)
    for case in wanted:
        print(row(case.model, case.form, case.checkpoint, arguments.dir, questions.read(case.questions)))


if __name__ == "__main__":
    main()
