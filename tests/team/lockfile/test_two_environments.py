"""A lock of a recipe for TensorRT-LLM that mmbuild calibrates: it has the versions of both environments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbuild.core.store.layout import Store, open_store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.team.lockfile import apply
from mmbuild.team.lockfile.make import make
from mmbuild.team.lockfile.model import LockError, lock_path, write_lock
from support.projects.recipe_project import RECIPE, load, png, write_parts

TENSORRT, ASKED = "tensorrt-llm 1.2", PlanOptions()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def recipe(root: Path, *, data: bool) -> Path:
    """The small recipe in fp8 with TensorRT-LLM 1.2."""
    calibration = {"calibration": {"data": "data.jsonl", "samples": 1}} if data else {}
    text = RECIPE.replace("int8", json.dumps({"algorithm": "fp8"} | calibration))
    load(root, text.replace("torch", "tensorrt-llm").replace("float32", "float16"))
    write_parts(root / "model")
    (root / "a.png").write_bytes(png())
    (root / "data.jsonl").write_text(json.dumps({"image": "a.png", "prompt": "why?"}), "utf-8")
    return root / "recipe.yaml"


def test_calibration_packages_are_locked_with_build_packages(tmp_path: Path, store: Store) -> None:
    locked = make(recipe(tmp_path, data=True), store, ASKED).lock
    assert set(locked.environments) == {"torch", TENSORRT}
    own = locked.environments["torch"]["packages"]
    assert {"torch", "transformers", "nvidia-modelopt", "tokenizers"} <= set(own)
    assert not {"torch", "nvidia-modelopt"} & set(locked.environments[TENSORRT]["packages"])
    assert locked.environments[TENSORRT]["tag"] == "v1.2.1"
    assert {"data.jsonl", "a.png"} <= set(locked.files)


def test_without_data_mmbuilds_own_packages_are_no_matter(tmp_path: Path, store: Store) -> None:
    assert set(make(recipe(tmp_path, data=False), store, ASKED).lock.environments) == {TENSORRT}


def test_another_model_optimizer_is_refused(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, data=True)
    made = make(path, store, ASKED)
    write_lock(lock_path(path), made.lock)
    assert apply.plan_locked(path, store, ASKED).graphs == made.graphs
    from mmbuild.backends.lowering import calibration as lower_calibration

    real = lower_calibration.metadata.version
    monkeypatch.setattr(
        lower_calibration.metadata,
        "version",
        lambda name: "0.0.1" if name == lower_calibration.OPTIMIZER else real(name),
    )
    with pytest.raises(LockError, match="torch packages nvidia-modelopt: locked") as caught:
        apply.plan_locked(path, store, ASKED)
    assert caught.value.code == "MM802"
