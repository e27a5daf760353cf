import json
from pathlib import Path

import pytest
import weights_on_disk as disk

from mmbuild.checkpoint.reader import load_config
from mmbuild.families import FamilyError
from mmbuild.steps import convert
from mmbuild.steps.base import StepContext


def test_the_demo_model_becomes_a_checkpoint_of_two_ranks(tmp_path: Path) -> None:
    params = {"family": "llava", "dtype": "float16", "tensor_parallel": 2}
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "rank0.safetensors",
        "rank1.safetensors",
    ]
    assert load_config(tmp_path).tensor_parallel == 2


def test_a_config_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    params = {"family": "llava", "dtype": "float16", "tensor_parallel": 1}
    with pytest.raises(FamilyError, match="blip-2"):
        convert.run(StepContext(params=params, inputs={"model": tmp_path}, out=tmp_path / "out"))
