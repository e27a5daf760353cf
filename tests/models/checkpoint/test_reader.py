import json
from pathlib import Path

import pytest

from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.reader import load_config, open_tensors
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families import family
from mmbuild.steps import convert, quantize
from support.models import weights_on_disk as disk


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    plain, out = tmp_path / "plain", tmp_path / "quantized"
    plain.mkdir()
    out.mkdir()
    facts = family("llava").facts(json.loads((disk.DEMO / "config.json").read_text()))
    params = step_params.convert(facts, "float16", 2)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=plain))
    quantize.run(StepContext(params={"algorithm": "int8"}, inputs={"checkpoint": plain}, out=out))
    return out


def test_the_config_reads_back(quantized: Path) -> None:
    config = load_config(quantized)
    assert config.llm == family("llava").facts(json.loads((disk.DEMO / "config.json").read_text())).llm
    assert (config.dtype, config.tensor_parallel, config.quant_algo) == ("float16", 2, "W8A16")


def test_tensors_are_views_of_the_file_on_64_byte_borders(quantized: Path) -> None:
    for tensor in open_tensors(quantized, 1).values():
        assert tensor.data_ptr() % 64 == 0


@pytest.mark.parametrize("mark", ["producer", "layout"])
def test_a_quantized_checkpoint_without_our_marks_is_refused(quantized: Path, mark: str) -> None:
    content = json.loads((quantized / "config.json").read_text())
    del content[mark]
    (quantized / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="plain layout") as caught:
        load_config(quantized)
    assert caught.value.code == "MM436"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"architecture": "x"}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        load_config(tmp_path)
    assert caught.value.code == "MM436"


def test_missing_and_truncated_rank_files_are_refused_by_name(quantized: Path) -> None:
    with pytest.raises(CheckpointError, match=r"rank2\.safetensors"):
        open_tensors(quantized, 2)
    path = quantized / "rank1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"rank1\.safetensors"):
        open_tensors(quantized, 1)
