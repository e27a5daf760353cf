"""The files that are fuzzed, and what reads each: a project with a store, a shared store and an engine.

The recipes, models and pictures are the repository's own; the store and the shared store are filled by this mmbuild
with trivial step bodies; the engine is the one in ``tests/fixtures``, so that nothing has to be compiled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "project-9d5f9bf.tar.xz"

_RECIPE = """\
version: 1
name: fuzzed
model:
  family: llava
  source: model
engine:
  backend: torch
  dtype: float32
  quantization:
    algorithm: int4_awq
    calibration:
      data: samples.jsonl
      samples: 8
  max_batch_size: 2
  max_images_per_prompt: 1
  max_input_len: 128
  max_output_len: 16
matrix:
  engine.dtype: [float32, bfloat16]
verify:
  images: [picture.png]
  prompts: [how many shapes ?]
"""

_CONFIGURATION = """\
store:
  timeout: 10
  transfers: 4
toolchains:
  0.10.0:
    python: ~/venvs/trtllm/bin/python
    examples: ~/src/TensorRT-LLM
    variables: {TOKENIZERS_PARALLELISM: 'false'}
tensorrt:
  python: ~/venvs/tensorrt/bin/python
"""

Probe = Callable[[Path], Any]
"""Reads a world (its directory); raises :class:`mmbuild.base.errors.MmbuildError` where it refuses it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of file.

    Attributes:
        name: What it is called in the report.
        pattern: Glob below the world; the first match by name is damaged.
        form: A row of :data:`mutations.DAMAGE`.
        probes: Command lines (lists) and functions that read it.
        statuses: Exit statuses that the command lines may have.
    """

    name: str
    pattern: str
    form: str
    probes: tuple[Sequence[str] | Probe, ...]
    statuses: tuple[int, ...] = (0, 1, 3, 4)


def make_world(place: Path) -> None:
    """Fill the empty directory ``place``."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(place / "old", filter="data")
    (place / "build").mkdir()
    (place / "old" / "build" / "old").rename(place / "build" / "old")
    shutil.rmtree(place / "old")
    shutil.copytree(ROOT / "examples" / "models" / "llava-shapes", place / "model")
    shutil.copytree(ROOT / "examples" / "calibration" / "pictures", place / "pictures")
    lines = (ROOT / "examples" / "calibration" / "llava.jsonl").read_text().splitlines(keepends=True)
    (place / "samples.jsonl").write_text("".join(lines[:8]))
    (place / "recipe.yaml").write_text(_RECIPE)
    (place / "weights").mkdir()  # small ones: hypothesis keeps what it draws
    shutil.copyfile(
        place / "build" / "old" / "llm" / "rank0.safetensors", place / "weights" / "model.safetensors"
    )
    (place / "configuration.yaml").write_text(_CONFIGURATION)
    (place / "mmbuild.yaml").touch()
    _pictures(place)
    _result(place)
    environment = world_environment(place, push=True)
    for arguments in (
        ("lock", "recipe.yaml"),
        ("apply", "recipe.yaml", "--ignore-estimates"),
        ("plan", "recipe.yaml", "-o", "saved.json"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mmbuild", *arguments],
            cwd=place,
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"`mmbuild {' '.join(arguments)}` failed in the undamaged world:\n{done.stderr}")


def world_environment(place: Path, *, push: bool = False) -> dict[str, str]:
    """The environment of everything that runs in a world."""
    (place / "home").mkdir(exist_ok=True)
    return {
        **os.environ,
        "MMBUILD_STORE": str(place / "store"),
        "MMBUILD_REMOTE": f"file://{place}/shared",
        "MMBUILD_PUSH": "always" if push else "never",
        "MMBUILD_STEPS": "support.steps.recipe_steps:TABLE",
        "MMBUILD_CONFIG": str(place / "configuration.yaml"),
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT / "src"))),
        "HOME": str(place / "home"),
        "XDG_CACHE_HOME": str(place / "home" / "cache"),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


def _pictures(place: Path) -> None:
    from PIL import Image

    with Image.open(ROOT / "examples" / "pictures" / "three-red-stars.png") as opened:
        picture = opened.convert("RGB")
    for name in ("png", "jpeg", "webp", "gif", "tiff", "bmp"):
        picture.save(place / f"picture.{name}")


def _weights(place: Path) -> None:
    from mmbuild.models.checkpoint.hf_weights import open_weights
    from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
    from mmbuild.models.validation.integrity import read_header

    read_header(place / "weights" / "model.safetensors")
    with open_weights(place / "weights") as tensors:
        for tensor in tensors.values():
            tensor.read(TensorSlice())


def _picture(name: str) -> Probe:
    def probe(place: Path) -> None:
        from mmbuild.models.images import open_picture

        open_picture(place / name)

    return probe


def _questions(place: Path) -> None:
    from mmbuild.evaluation.answers.questions import read

    read(place / "samples.jsonl")


def _result(place: Path) -> None:
    """Write a result of eval, with the accepted answers as the engine's."""
    from mmbuild.evaluation.answers.document import as_text, document
    from mmbuild.evaluation.answers.questions import read

    questions = [asdict(question) for question in read(place / "samples.jsonl")]
    answers = [question["accepted"][0] for question in questions]
    when = datetime(2026, 1, 1, tzinfo=UTC)
    result = document({"name": "old"}, "samples.jsonl", {}, "f1", questions, answers, when)
    (place / "result.json").write_text(as_text(result), encoding="utf-8")


_PLAN = ("plan", "recipe.yaml", "--offline")
_STORE = (
    _PLAN,
    ("cache", "ls"),
    ("history",),
    ("why", "recipe.yaml"),
    ("cache", "gc", "--dry-run"),
    ("cache", "verify"),
)
_PULL = (("cache", "pull", "recipe.yaml"),)
_ENGINE = (("compat", "build/old"), ("run", "build/old", "--image", "picture.png", "--prompt", "x"))
HEAVY = (
    "torch",
    "transformers.models.llava",
    "safetensors.torch",
    "PIL.Image",
    "pydantic",
    "yaml",
    "jinja2",
    "fsspec",
)
"""Imported once, before the processes of the kinds are forked."""

TARGETS: tuple[Target, ...] = (
    Target("recipe", "recipe.yaml", "yaml", (("validate", "recipe.yaml"), _PLAN)),
    Target(
        "lock",
        "recipe.lock",
        "yaml",
        (("lock", "--check", "recipe.yaml"), ("plan", "recipe.yaml", "--offline")),
    ),
    Target("configuration", "configuration.yaml", "yaml", (("config", "show"), _PLAN)),
    Target("saved plan", "saved.json", "json", (("apply", "saved.json"),)),
    Target("config.json", "model/config.json", "json", (_PLAN,)),
    Target("generation_config.json", "model/generation_config.json", "json", (_PLAN,)),
    Target("tokenizer.json", "model/tokenizer.json", "json", (_PLAN,)),
    Target("tokenizer_config.json", "model/tokenizer_config.json", "json", (_PLAN,)),
    Target("processor_config.json", "model/processor_config.json", "json", (_PLAN,)),
    Target("chat template", "model/chat_template.jinja", "bytes", (_PLAN,)),
    Target("safetensors header", "weights/model.safetensors", "header", (_weights,)),
    Target("calibration data", "samples.jsonl", "lines", (_PLAN,)),
    Target("questions", "samples.jsonl", "lines", (_questions,)),
    Target("result of eval", "result.json", "json", (("compare", "result.json", "result.json"),)),
    *(
        Target(f"picture ({name})", f"picture.{name}", "bytes", (_picture(f"picture.{name}"),))
        for name in ("png", "jpeg", "webp", "gif", "tiff", "bmp")
    ),
    Target("journal", "store/journal.jsonl", "lines", _STORE),
    Target("history", "store/history.jsonl", "lines", _STORE),
    Target("artifact's manifest", "store/manifests/*.json", "json", _STORE),
    Target("definition", "store/definitions/*.json", "json", _STORE),
    Target("named build", "store/roots/*.json", "json", _STORE),
    Target("plan cache", "store/plans/*.json", "lines", _STORE),
    Target("stat index", "store/stat.db", "bytes", _STORE),
    Target("store's version", "store/VERSION", "bytes", _STORE),
    Target("shared entry", "shared/v1/actions/*/*.json", "json", _PULL, (0,)),
    Target("shared manifest", "shared/v1/manifests/*/*.json", "json", _PULL, (0,)),
    Target("shared object", "shared/v1/objects/*/*", "bytes", _PULL, (0,)),
    Target("engine.json", "build/old/engine.json", "json", _ENGINE),
    Target("engine's manifest", "build/old/manifest.json", "json", _ENGINE),
    Target("visual.json", "build/old/visual/visual.json", "json", _ENGINE),
    Target("checkpoint config", "build/old/llm/config.json", "json", _ENGINE),
)
