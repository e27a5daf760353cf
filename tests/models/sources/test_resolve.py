import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.models.sources.resolve import SourceIdentity, dummy_dtype, identify, source_files
from support.models import weights_on_disk as disk

CONFIG = json.loads((disk.DEMO / "config.json").read_text())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def name(source: str, root: Path, config: Any = CONFIG) -> SourceIdentity:
    return identify(source, None, root, config=config, digest=digest)


def test_a_directory_is_named_by_its_files_and_not_by_its_place(tmp_path: Path) -> None:
    copies = [tmp_path / "a" / "model", tmp_path / "b" / "avila.llava"]
    for copy in copies:
        shutil.copytree(disk.DEMO, copy)
    first = name("model", tmp_path / "a")
    second = name(str(copies[1]), Path("/nowhere"))
    assert (first.kind, first.params, first.sources) == (second.kind, second.params, second.sources)
    assert first.locators != second.locators
    assert str(tmp_path) not in json.dumps([dict(first.params), dict(first.sources)])


def test_a_changed_renamed_or_added_file_is_another_model_and_a_readme_is_not(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(disk.DEMO, model)
    before = name("model", tmp_path).sources
    (model / "README.md").write_text("changed")
    assert name("model", tmp_path).sources == before
    (model / "chat_template.jinja").write_text("{{ x }}")
    added = name("model", tmp_path).sources
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    changed = name("model", tmp_path).sources
    assert len({str(s) for s in (before, added, changed)}) == 3


def test_random_weights_are_named_by_config_seed_and_dtype(tmp_path: Path) -> None:
    recorded = name("dummy://llava-hf/llava-1.5-7b-hf", tmp_path)
    assert recorded.kind == "dummy"
    assert set(recorded.params) == {"kind", "seed", "dtype", "config"}
    assert recorded.locators == {"recorded": "llava-hf/llava-1.5-7b-hf"}
    other = name("dummy://llava-hf/llava-1.5-7b-hf", tmp_path, {**CONFIG, "pad_token_id": 3})
    assert recorded.params["config"] != other.params["config"]


def test_random_weights_of_a_directory_depend_on_its_tokenizer_and_not_on_its_weights(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(disk.DEMO, model)
    before = name("dummy://./model", tmp_path)
    (model / "model.safetensors").unlink()
    assert name("dummy://./model", tmp_path) == before
    (model / "tokenizer.json").write_text("{}")
    assert name("dummy://./model", tmp_path).sources != before.sources


def test_a_pinned_commit_needs_no_hub(tmp_path: Path) -> None:
    commit = "a" * 40
    identity = identify("hf://owner/name", commit, tmp_path, config={}, digest=digest, offline=True)
    assert identity.params == {"kind": "hf", "repo": "owner/name", "commit": commit}


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "torch.float32"}, "float32"),
        ({}, "float16"),
        ({"dtype": "int8"}, "float16"),
    ],
)
def test_random_weights_have_the_dtype_of_the_config(given: dict[str, str], dtype: str) -> None:
    assert dummy_dtype(given) == dtype


def test_a_missing_directory_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(MmbuildError, match="cannot be read") as caught:
        name("nowhere", tmp_path)
    assert caught.value.code == "MM401"
    (tmp_path / "empty").mkdir()
    with pytest.raises(MmbuildError, match="no file of a model") as caught:
        name("empty", tmp_path)
    assert caught.value.code == "MM402"


def test_a_dangling_link_is_reported_by_its_name(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(disk.DEMO, model)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(MmbuildError, match=r"model\.safetensors") as caught:
        name("model", tmp_path)
    assert caught.value.code == "MM401"


def test_source_files_are_sorted_and_may_leave_weights_out() -> None:
    names = source_files(disk.DEMO, weights=False)
    assert names == sorted(names)
    assert "model.safetensors" not in names


def test_an_unresolved_branch_can_be_planned_but_not_downloaded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from mmbuild.core.steps.context import StepContext
    from mmbuild.steps import download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    identity = identify("hf://o/m", "dev", tmp_path, config=CONFIG, digest=digest, offline=True)
    assert identity.params == {"kind": "hf", "repo": "o/m", "commit": None, "revision": "dev"}
    assert identity.revision is None
    params = {**identity.params, "source": "vision", "directories": []}
    with pytest.raises(MmbuildError, match="at `dev` was unknown") as caught:
        download.run(StepContext(params=params, out=tmp_path))
    assert caught.value.code == "MM422"
    assert caught.value.hint == "plan without --offline, or write the commit into model.vision.revision"
