"""A git repository with recipes of a small model with random weights, and the verbs for CI run in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mmbuild.cli import main
from support.projects.recipe_project import CONFIG

BASE = """\
version: 1
model: {family: llava, source: "dummy://../../model"}
target: {device: cpu, isa: avx2}
engine:
  backend: torch
  dtype: float32
  max_batch_size: 2
  max_input_len: 96
  max_output_len: 32
"""
RECIPE = """\
version: 1
name: small
extends: base/base.yaml
matrix: {quantization: [none, int8, int4]}
"""
OTHER = """\
version: 1
name: other
extends: base/base.yaml
model: {source: "dummy://../model2"}
"""


class CiProject:
    """``recipes/small.yaml`` (three variants), ``recipes/other.yaml`` (one), both on ``recipes/base/base.yaml``."""

    def __init__(self, root: Path, monkeypatch, capsys) -> None:
        self.root, self.capsys = root, capsys
        for number, name in enumerate(("model", "model2")):
            (root / name).mkdir(parents=True)
            config = {**CONFIG, "text_config": {**CONFIG["text_config"], "vocab_size": 101 + number}}
            (root / name / "config.json").write_text(json.dumps(config))
        self.write("mmbuild.yaml", "")
        self.write("recipes/base/base.yaml", BASE)
        self.write("recipes/small.yaml", RECIPE)
        self.write("recipes/other.yaml", OTHER)
        monkeypatch.chdir(root)
        monkeypatch.setenv("MMBUILD_STORE", str(root.parent / "store"))
        self.git("init", "-q", "-b", "main")
        self.commit()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def git(self, *arguments: str) -> str:
        words = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(words, cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a commit")
        return self.git("rev-parse", "HEAD")

    def run(self, *arguments: object, status: int = 0):
        """What a verb printed: ``out`` and ``err``."""
        self.capsys.readouterr()
        found = main([str(word) for word in arguments])
        said = self.capsys.readouterr()
        assert found == status, said.err + said.out
        return said

    def json(self, *arguments: object, status: int = 0):
        return json.loads(self.run(*arguments, status=status).out)
