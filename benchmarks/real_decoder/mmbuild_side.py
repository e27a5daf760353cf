"""mmbuild's side: checkpoints of backend hf, by ``mmbuild apply``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real_decoder.forms import FORMS, Form
from benchmarks.real_decoder.texts import SAMPLES


def recipe(name: str, form: Form) -> Mapping[str, Any]:
    """A recipe beside ``model/`` and ``samples/``."""
    calibration = {"data": "samples/data.jsonl", "samples": SAMPLES} if form.fitted else None
    quantization = {**form.recipe, **({"calibration": calibration} if calibration else {})}
    return {
        "version": 1,
        "name": slug(name),
        "model": {"family": "llava", "source": "./model"},
        "engine": {
            "backend": "hf",
            "dtype": "float32",
            "quantization": quantization,
            "max_input_len": 1024,
            "max_output_len": 32,
        },
    }


def slug(name: str) -> str:
    """The name of a form as the name of a build."""
    return name.replace(" ", "-").replace("_", "-")


def build(root: Path, names: list[str]) -> dict[str, Path]:
    """Write recipes to ``root`` and apply them; returns the checkpoints by form."""
    paths = []
    (root / "mmbuild.yaml").touch()  # the project's root: recipes may name files below it
    for name in names:
        path = root / f"{slug(name)}.yaml"
        path.write_text(yaml.safe_dump(dict(recipe(name, FORMS[name]))), encoding="utf-8")
        paths.append(path.name)
    command = [sys.executable, "-m", "mmbuild", "apply", *paths, "--store", "store", "--no-progress"]
    # Actions have a GPU for themselves, and on cores they run side by side.
    subprocess.run(command, cwd=root, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    return {name: root / "build" / slug(name) for name in names}
