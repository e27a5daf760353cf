"""A project with the demo recipes and model, and mmbuild run there with trivial step bodies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support import TESTS
from support.projects.forked import run_forked

REPOSITORY = Path(__file__).parents[3]
RECIPE = "recipes/demo/llava-int4.yaml"
NAME = "llava-shapes-int4"
"""The recipe that tests apply, and the name of its engine directory."""


class Project:
    """A directory with the demo recipes and model, and the tool run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(REPOSITORY / "recipes", root / "recipes")
        shutil.copytree(REPOSITORY / "examples", root / "examples")
        (root / "pyproject.toml").write_text("")
        self.environment = {
            **os.environ,
            "MMBUILD_STORE": str(root / "store"),
            "MMBUILD_STEPS": "support.steps.recipe_steps:TABLE",
            # The code next to these tests, wherever mmbuild is installed from.
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(TESTS)]),
            "NO_COLOR": "1",
        }

    def run(self, *arguments, status=0, **environment):
        given, words = {**self.environment, **environment}, [str(word) for word in arguments]
        if any(name.startswith("PYTHON") for name in environment):  # Python reads these when it starts
            done = subprocess.run(
                [sys.executable, "-m", "mmbuild", *words],
                cwd=self.root,
                env=given,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        else:
            done = run_forked(words, self.root, given)
        assert done.returncode == status, done.stderr + done.stdout
        assert "Traceback" not in done.stderr or environment.get("traceback")
        return done
