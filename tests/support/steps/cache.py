"""Step outputs kept between tests, test processes and runs, so that each engine is compiled once.

A step's output is in a directory named after everything it depends on: the step, its parameters and inputs,
and the code behind it. One process builds it, the others wait for its lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

import mmbuild
from mmbuild.core.steps.context import StepContext

_KEPT_SECONDS = 3 * 86400
# The code that makes a step's output: files of mmbuild and, of a family's own, the modules named so.
_CODE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "convert": (("models/checkpoint/*.py", "steps/convert.py"), ("weights.py",)),
    "quantize": (
        (
            "models/checkpoint/*.py",
            "models/calibration_data/*.py",
            "backends/torch/calibration/*.py",
            "steps/quantize.py",
        ),
        (),
    ),
    "build_llm": (("backends/torch/*.py", "backends/torch/package_runtime/*", "steps/build_llm.py"), ()),
    "build_visual": (
        (
            "backends/torch/export.py",
            "backends/torch/compile_pool.py",
            "backends/torch/graph_cutting.py",
            "backends/torch/graph_segment.py",
            "backends/torch/inductor_fix.py",
            "backends/torch/inductor_strides.py",
            "backends/torch/package_cache.py",
            "backends/torch/package_runtime/*",
            "backends/torch/visual_build.py",
            "backends/torch/visual_calls.py",
            "backends/visual/config.py",
            "steps/build_visual.py",
        ),
        ("visual.py", "visual_shape.py", "towers.py"),
    ),
    "convert_visual": (
        ("backends/visual/tensors.py", "models/checkpoint/*.py", "steps/convert_visual.py"),
        ("visual.py", "visual_shape.py", "towers.py"),
    ),
    "assemble": (
        (
            "backends/engine_dir/description.py",
            "steps/assemble.py",
            "models/files/generation_*",
        ),
        ("__init__.py",),
    ),
}
# What builds no LLM's packages: it runs them, or builds visual engines.
_RUN_TIME = frozenset(
    f"backends/torch/{name}.py"
    for name in (
        "__init__",
        "aot_package",
        "beam_search",
        "bound_packages",
        "cuda_graphs",
        "engine",
        "generate",
        "graph_cutting",
        "graph_segment",
        "host_copy",
        "logits_processors",
        "outputs",
        "package_shapes",
        "parity",
        "rank_worker",
        "row_caches",
        "row_spans",
        "sampling",
        "session",
        "visual_build",
        "visual_calls",
        "visual_engine",
        "visual_loading",
        "weights",
    )
)


@cache
def default_root() -> Path:
    """Outputs kept for this torch; those that no test has used for days are removed."""
    everything = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent / "test-engines"
    root = everything / torch.__version__
    root.mkdir(parents=True, exist_ok=True)
    for other in (*everything.iterdir(), *root.iterdir()):
        if other != root and time.time() - other.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
            other.unlink(missing_ok=True)
    return root


@cache
def code_key(step: str) -> str:
    """Changes with the code that makes a step's output."""
    packages, of_families = _CODE[step]
    root = Path(mmbuild.__file__).parent
    required = [path for name in packages for path in root.glob(name) if path.is_file()]
    required += [path for name in of_families for path in (root / "models/families").rglob(f"*{name}")]
    digest = hashlib.sha256()
    for path in sorted(set(required)):
        name = path.relative_to(root).as_posix()
        if name not in _RUN_TIME or name in packages:
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def tree_key(directory: Path) -> str:
    """Digest of a directory's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(path.relative_to(directory).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def once(root: Path, name: str, key: Any, make: Callable[[Path], None]) -> Path:
    """The directory that ``make(directory)`` filled, the first time it was called with ``name`` and ``key``."""
    text = json.dumps(key, sort_keys=True, default=str)
    done = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    with _locked(done.with_suffix(".lock")):
        if not done.exists():
            fresh = done.with_suffix(".part")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            make(fresh)
            fresh.rename(done)
        os.utime(done)
    return done


def own_copy(root: Path, directory: Path) -> Path:
    """A copy of a model directory. An engine has links to the files that it is assembled from, which change their
    times; of a model in the repository another test may just be building."""

    def copy(out: Path) -> None:
        shutil.copytree(directory, out, dirs_exist_ok=True)

    return once(root, "model", tree_key(directory), copy)


def run_step(
    root: Path,
    run: Callable[[StepContext], None],
    params: Mapping[str, Any],
    *,
    inputs: Mapping[str, Path] | None = None,
    target: Mapping[str, Any] | None = None,
    locators: Mapping[str, str] | None = None,
) -> Path:
    """The output of a step, from ``root`` where it is known. Inputs are known by their names there.

    What the locators name is taken to be as it is in the repository.
    """
    inputs, target, locators = inputs or {}, target or {}, locators or {}
    name = run.__module__.rpartition(".")[2]
    known = {given: path.name if path.parent == root else tree_key(path) for given, path in inputs.items()}

    def make(out: Path) -> None:
        run(StepContext(params=params, inputs=inputs, target=target, locators=locators, out=out))

    read = {given: Path(path).read_text(encoding="utf-8") for given, path in locators.items()}
    return once(root, name, [code_key(name), params, known, target, *([read] if read else [])], make)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
