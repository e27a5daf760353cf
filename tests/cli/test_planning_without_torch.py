"""Recipes are planned on a machine that has neither torch nor Model Optimizer: with a lock, under the same keys.

Commands run in a virtual environment that contains only what mmbuild requires without extras.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base.optional_packages import install_hint
from support.environments import ROOT, core_environment

pytestmark = pytest.mark.slow

EMBEDDED, CALIBRATED, CHECKPOINT = "llava-int4.yaml", "llava-awq.yaml", "llava-checkpoint.yaml"
RECIPES = (EMBEDDED, CALIBRATED, CHECKPOINT)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment without torch, transformers and Model Optimizer."""
    return core_environment(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo recipes, each with a lock that the complete environment wrote."""
    root = tmp_path_factory.mktemp("project")
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, root / name)
    (root / "mmbuild.yaml").touch()
    for name in RECIPES:
        finished(run(Path(sys.executable), root, "lock", f"recipes/demo/{name}"))
    return root


def run(python: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "mmbuild", *arguments],
        cwd=root,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "PYTHONPATH": str(ROOT / "src"),
            "MMBUILD_STORE": str(root / "store"),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def finished(done: subprocess.CompletedProcess[str]) -> str:
    """Standard output of a command that succeeded."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def keys(plan: str) -> dict[str, Any]:
    """The plan hash and the definition key of every action."""
    value = json.loads(plan)
    return {"plan": value["hash"], **{item["label"]: item["definition_key"] for item in value["actions"]}}


@pytest.mark.parametrize(
    "package", ["torch", "transformers", "modelopt", "tokenizers", "PIL", "compressed_tensors"]
)
def test_the_environment_has_no_package_of_an_extra(bare: Path, package: str) -> None:
    done = subprocess.run([bare, "-c", f"import {package}"], capture_output=True, text=True, check=False)
    assert f"ModuleNotFoundError: No module named '{package}'" in done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_a_locked_plan_has_the_keys_of_the_machine_with_torch(bare: Path, project: Path, name: str) -> None:
    arguments = ("plan", f"recipes/demo/{name}", "--locked", "--json")
    here = run(bare, project, *arguments)
    assert keys(finished(here)) == keys(finished(run(Path(sys.executable), project, *arguments)))
    assert "can plan with" in here.stderr
    assert "but not apply it: " in here.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("validate", f"recipes/demo/{EMBEDDED}", f"recipes/demo/{CALIBRATED}", f"recipes/demo/{CHECKPOINT}"),
        ("graph", f"recipes/demo/{CALIBRATED}", "--locked"),
        ("why", f"recipes/demo/{CALIBRATED}", "--locked"),
        ("ci", "plan", f"recipes/demo/{CALIBRATED}", "--locked"),
        ("lock", "--check", f"recipes/demo/{CALIBRATED}"),
        ("lock", f"recipes/demo/{CALIBRATED}"),
        ("apply", f"recipes/demo/{CALIBRATED}", "--locked", "--dry-run"),
        ("plan", "recipes/llava-int4.yaml"),  # TensorRT-LLM, whose versions are in the recipe's toolchain
        ("init", "examples/models/llava-shapes", "-o", "new.yaml"),
    ],
    ids=" ".join,
)
def test_commands_that_build_nothing_work(bare: Path, project: Path, arguments: tuple[str, ...]) -> None:
    printed = finished(run(bare, project, *arguments))
    if arguments[0] in ("graph", "why", "ci", "apply"):
        assert printed == finished(run(Path(sys.executable), project, *arguments))


def test_an_updated_lock_is_the_one_that_the_machine_with_torch_wrote(bare: Path, project: Path) -> None:
    lock = project / "recipes/demo" / CHECKPOINT.replace(".yaml", ".lock")
    before = lock.read_bytes()
    finished(run(bare, project, "lock", f"recipes/demo/{CHECKPOINT}"))
    assert lock.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", f"recipes/demo/{EMBEDDED}"),
        ("graph", f"recipes/demo/{EMBEDDED}"),
        ("ci", "plan", f"recipes/demo/{EMBEDDED}"),
        ("apply", f"recipes/demo/{EMBEDDED}", "--locked"),
    ],
    ids=" ".join,
)
def test_what_needs_torch_says_how_to_plan_without_it(
    bare: Path, project: Path, arguments: tuple[str, ...]
) -> None:
    done = run(bare, project, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: the recipe needs `torch` in mmbuild's own environment, where it is not installed [MM230]\n"
        "\n"
        f"hint: {install_hint('torch')}; to plan without it, run `mmbuild lock RECIPE` where it is installed, "
        "and add `--locked` here\n"
    )
