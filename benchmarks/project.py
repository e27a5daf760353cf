"""A project of many recipes with models of their own, and trivial step bodies."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from mmbuild.core.steps.context import StepContext
from mmbuild.core.steps.registry import StepSpec
from mmbuild.steps.table import STEPS

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "models" / "llava-shapes"


def body(context: StepContext) -> None:
    """Write what the action was given."""
    (context.out / "result.json").write_text(json.dumps([dict(context.params), dict(context.sources)]))


TABLE: Mapping[str, StepSpec] = {
    name: StepSpec(name, "benchmark-1", "benchmarks.project:body") for name in STEPS
}


def make_project(root: Path, recipes: int) -> list[Path]:
    """``recipes`` recipe files under ``root``, each with a model directory that differs in one small file."""
    (root / "recipes").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    found = []
    for number in range(recipes):
        make_model(root / "models" / f"m{number}", number)
        path = root / "recipes" / f"r{number}.yaml"
        path.write_text(_recipe(f"r{number}", f"m{number}"))
        found.append(path)
    return found


def make_matrix(root: Path, recipes: int) -> tuple[Path, list[Path]]:
    """One recipe file under ``root`` whose matrix makes ``recipes`` variants, and the model directory of each."""
    (root / "recipes").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    models = [root / "models" / f"m{number:03d}" for number in range(recipes)]
    for number, model in enumerate(models):
        make_model(model, number)
    values = ", ".join(f"../models/{model.name}" for model in models)
    path = root / "recipes" / "scale.yaml"
    path.write_text(
        _recipe("scale", models[0].name) + f"matrix:\n  model: {{key: model.source, values: [{values}]}}\n"
    )
    return path, models


def make_model(model: Path, number: int) -> None:
    """The demo model with another ``generation_config.json``; again, for a model that has changed."""
    if not model.exists():
        shutil.copytree(MODEL, model, copy_function=_link)
    (model / "generation_config.json").unlink(missing_ok=True)
    (model / "generation_config.json").write_text(json.dumps({"number": number, "eos_token_id": 2}))


def environment(root: Path, steps: str = "benchmarks.project:TABLE") -> dict[str, str]:
    """For commands that run in the project: a store of its own and trivial bodies."""
    return {
        **os.environ,
        "MMBUILD_STORE": str(root / "store"),
        "MMBUILD_STEPS": steps,
        "PYTHONPATH": str(ROOT),
    }


def tool(*arguments: str | Path) -> list[str]:
    """The command line of mmbuild as it is installed."""
    installed = Path(sys.executable).with_name("mmbuild")
    start = [str(installed)] if installed.exists() else [sys.executable, "-m", "mmbuild"]
    return [*start, *map(str, arguments)]


def _link(source: str, target: str) -> None:
    os.link(source, target)


def _recipe(name: str, model: str) -> str:
    return (
        f"version: 1\nname: {name}\nmodel:\n  family: llava\n  source: ../models/{model}\n"
        "engine:\n  backend: torch\n  dtype: float32\n  quantization: int4\n"
        "  max_batch_size: 1\n  max_input_len: 128\n  max_output_len: 40\n"
    )
