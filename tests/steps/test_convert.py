from pathlib import Path

import pytest

from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.reader import load_config
from mmbuild.steps import convert
from support.engines.build import facts_of
from support.models import tiny_families
from support.models import weights_on_disk as disk


def test_the_demo_model_becomes_a_checkpoint_of_two_ranks(tmp_path: Path) -> None:
    params = step_params.convert(facts_of("llava", {"model": disk.DEMO}), "float16", 2)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "rank0.safetensors",
        "rank1.safetensors",
    ]
    assert load_config(tmp_path).tensor_parallel == 2


@pytest.mark.parametrize(
    ("family", "components"), [("blip2-t5", ["decoder", "encoder"]), ("nougat", ["decoder"])]
)
def test_an_encoder_decoder_becomes_a_checkpoint_of_components(
    tmp_path: Path, family: str, components: list[str]
) -> None:
    tiny_families.save_model(family, 1, tmp_path / "model")
    (tmp_path / "out").mkdir()
    sources = {"model": tmp_path / "model"}
    params = step_params.convert(facts_of(family, sources), "float32", 2)
    convert.run(StepContext(params=params, inputs=sources, out=tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == components
    for component in components:
        names = sorted(path.name for path in (tmp_path / "out" / component).iterdir())
        assert names == ["config.json", "rank0.safetensors", "rank1.safetensors"]
        architecture = load_config(tmp_path / "out" / component).llm.architecture
        assert architecture == f"{component.capitalize()}Model"
