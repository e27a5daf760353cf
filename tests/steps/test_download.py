import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmbuild.backends.lowering import step_params
from mmbuild.base.errors import MmbuildError
from mmbuild.core.steps.context import StepContext
from mmbuild.models.families import ModelFacts, family
from mmbuild.models.sources.config import read_config
from mmbuild.models.sources.resolve import identify
from mmbuild.steps import convert, download
from support.engines.build import facts_of
from support.models import weights_on_disk as disk


def context(source: str, root: Path, out: Path, planned: ModelFacts | None = None) -> StepContext:
    """The context that the planner builds for the step; ``planned``: facts of another model than ``source``."""
    config = read_config(source, None, root).config
    identity = identify(source, None, root, config=config, digest=lambda path: path.name)
    out.mkdir()
    facts = planned or family("llava").facts(config)
    expected = step_params.download(facts, "model", {"model": config}, [])
    return StepContext(
        params={**identity.params, **expected},
        sources=identity.sources,
        locators=identity.locators,
        out=out,
    )


def test_files_of_a_directory_are_linked_not_copied(tmp_path: Path) -> None:
    out = tmp_path / "out"
    download.run(context(str(disk.DEMO), tmp_path, out))
    assert all(path.is_symlink() for path in out.iterdir())
    assert (out / "model.safetensors").resolve() == (disk.DEMO / "model.safetensors").resolve()
    assert not (out / "README.md").exists()


def test_links_of_the_hub_cache_are_resolved_to_the_file(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in disk.DEMO.iterdir():
        (snapshot / path.name).symlink_to(path)
    out = tmp_path / "out"
    download.run(context(str(snapshot), tmp_path, out))
    shutil.rmtree(snapshot)
    assert (out / "config.json").read_bytes() == (disk.DEMO / "config.json").read_bytes()


def test_random_weights_with_the_shapes_of_a_directory_convert(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(disk.DEMO)
    out, checkpoint = tmp_path / "out", tmp_path / "checkpoint"
    download.run(context("dummy://./model", tmp_path, out))
    assert (out / "tokenizer.json").read_bytes() == (disk.DEMO / "tokenizer.json").read_bytes()
    assert (out / "model.safetensors").read_bytes() != (disk.DEMO / "model.safetensors").read_bytes()
    checkpoint.mkdir()
    params = step_params.convert(facts_of("llava", {"model": out}), "float16", 2)
    convert.run(StepContext(params=params, inputs={"model": out}, out=checkpoint))
    assert (checkpoint / "rank1.safetensors").exists()


def test_the_step_rejects_a_broken_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(disk.DEMO, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(MmbuildError, match="truncated") as caught:
        download.run(context("model", tmp_path, tmp_path / "out"))
    assert caught.value.code == "MM403"
    assert str(weights) in caught.value.message


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("visual", "num_visual_features", 576), ("llm", "norm_epsilon", 1e-5), ("llm", "rotary_base", 5e5)],
)
def test_a_model_that_differs_from_the_plan_is_rejected(
    tmp_path: Path, part: str, name: str, value: float
) -> None:
    real = facts_of("llava", {"model": disk.DEMO})
    planned = replace(real, **{part: replace(getattr(real, part), **{name: value})})
    with pytest.raises(MmbuildError, match=f"{part}.{name} ") as caught:
        download.run(context(str(disk.DEMO), tmp_path, tmp_path / "out", planned))
    assert caught.value.code == "MM412"
    assert str(value) in caught.value.message


def test_a_config_that_changed_since_planning_is_rejected(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(disk.DEMO, model)
    planned = context("dummy://./model", tmp_path, tmp_path / "out")
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**content, "pad_token_id": 3}))
    with pytest.raises(MmbuildError, match="changed") as caught:
        download.run(planned)
    assert caught.value.code == "MM413"
