"""Plans of the repository's recipes have the keys that they had: moving or renaming code invalidates no store.

Where a key has to change (a step's version, a parameter), write the table again and say why in the commit message::

    PYTHONPATH=src:tests/support python tests/pipeline/test_plan_digests.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.hf import lower as hf
from mmbuild.backends.tensorrt_llm.lower import Environment, lower_toolchain
from mmbuild.backends.torch.lower import lower
from mmbuild.base.canonical_json import hash_json
from mmbuild.base.pins import Pins
from mmbuild.pipeline.load import load_recipes

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[2]
TABLE = HERE / "plan_digests.json"
BACKENDS = ("torch", "tensorrt-llm", "hf")
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), *sorted((ROOT / "recipes" / "demo").glob("*.yaml"))]

# Stated here, so that no key depends on the machine that runs the test.
HOST = {"device": "cuda", "sm": 90, "isa": "avx2"}
PACKAGES = {
    "torch": "2.13.0",
    "transformers": "5.17.0",
    "nvidia-modelopt": "0.48.0",
    "tensorrt": "10.13.3",
    "compressed-tensors": "0.17.1",
}
ENVIRONMENT = Environment('{"python": "/opt/venv/bin/python"}', {"tensorrt": "10.13.3"})


class OneCommit(dict[tuple[str, str], str]):
    """Every branch is at the same commit."""

    def get(self, *_: object) -> Any:
        return "0" * 40


def contents(path: Path) -> str:
    """A user's file, known by its name: recipes and models may be edited without any key's meaning changing."""
    return hash_json(path.name)


CONTEXT = PlanContext(HOST, contents, offline=True, pins=Pins(OneCommit(), {"torch": PACKAGES}))


def digests(recipe: Path, backend: str) -> dict[str, str]:
    """The digest of each variant's actions, or the codes of what is wrong with the recipe."""
    loaded = load_recipes([recipe], overrides=(f"engine.backend={backend}",), offline=True, pins=CONTEXT.pins)
    codes = sorted({item.code for item in loaded.diagnostics if item.severity == "error"})
    if codes:
        return {"refused": " ".join(codes)}
    found = {}
    for variant in loaded.variants:
        graph = LOWER[backend](variant, CONTEXT)
        actions = [[action.label, action.step, action.definition_key] for action in graph.actions]
        found[variant.name] = hash_json([actions, graph.engine])[:16]
    return found


LOWER = {
    "torch": lower,
    "tensorrt-llm": lambda variant, context: lower_toolchain(variant, context, ENVIRONMENT),
    "hf": hf.lower,
}


def everything() -> dict[str, dict[str, dict[str, str]]]:
    return {
        recipe.relative_to(ROOT).as_posix(): {backend: digests(recipe, backend) for backend in BACKENDS}
        for recipe in RECIPES
    }


@pytest.fixture(autouse=True)
def _settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_keys_of_a_recipe_are_unchanged(recipe: Path, backend: str) -> None:
    known = json.loads(TABLE.read_text(encoding="utf-8"))
    assert digests(recipe, backend) == known[recipe.relative_to(ROOT).as_posix()][backend]


if __name__ == "__main__":
    with mock.patch.dict(os.environ, HF_HUB_CACHE="/nonexistent"):
        TABLE.write_text(json.dumps(everything(), indent=1) + "\n", encoding="utf-8")
