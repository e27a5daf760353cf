import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mmbuild.models.checkpoint.hf_weights import open_weights, weight_files
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.errors import CheckpointError
from support.models import weights_on_disk as disk


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_parts_are_read_by_rows_and_columns(tmp_path: Path, kind: str) -> None:
    matrix = np.arange(30, dtype=np.float32).reshape(5, 6)
    if kind == "bin":
        torch.save({"w": torch.from_numpy(matrix)}, tmp_path / "pytorch_model.bin")
    else:
        save_file({"w": matrix}, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as stored:
        tensor = stored["w"]
        assert tensor.shape == (5, 6)
        assert np.array_equal(tensor.read(TensorSlice()), matrix)
        assert np.array_equal(tensor.read(TensorSlice(rows=(1, 3))), matrix[1:3])
        assert np.array_equal(tensor.read(TensorSlice(columns=(2, 5))), matrix[:, 2:5])
        assert np.array_equal(tensor.read(TensorSlice(rows=(0, 2), columns=(1, 2))), matrix[:2, 1:2])


def test_safetensors_go_before_pickles(tmp_path: Path) -> None:
    save_file({"w": np.zeros(1)}, tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert weight_files(tmp_path) == ["model.safetensors"]


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="contains no weights") as caught:
        weight_files(tmp_path)
    assert caught.value.code == "MM402"


def test_an_index_that_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-2.safetensors"}}')
    with pytest.raises(CheckpointError, match="which is not in") as caught:
        weight_files(tmp_path)
    assert caught.value.code == "MM405"


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["weights_a", "../outside", "sub/model-00001-of-00001", "/etc/model-1"])
def test_shards_that_are_not_downloaded_under_their_names_are_refused(
    tmp_path: Path, kind: str, name: str
) -> None:
    stem, ending = kind.split(".")
    (tmp_path / f"weights_a.{ending}").write_bytes(b"")
    (tmp_path.parent / f"outside.{ending}").write_bytes(b"")
    (tmp_path / f"{kind}.index.json").write_text(json.dumps({"weight_map": {"w": f"{name}.{ending}"}}))
    with pytest.raises(CheckpointError, match="which is not the name of a shard") as caught:
        weight_files(tmp_path)
    assert caught.value.code == "MM733"
    assert f"`{stem}-00001-of-00002.{ending}`" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        weight_files(tmp_path)
    assert caught.value.code == "MM403"


def test_truncated_safetensors(tmp_path: Path) -> None:
    save_file({"w": np.zeros(100)}, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught, open_weights(tmp_path):
        pass
    assert caught.value.code == "MM403"


class Evil:
    """A pickle that would write a file when it is opened the careless way."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (Path("/tmp/mmbuild-evil"), "run"))


def pickles(path: Path) -> dict[str, object]:
    torch.save({"w": torch.zeros(3)}, path / "whole")
    return {
        "code in a zip": lambda file: torch.save({"w": Evil()}, file),
        "code in a plain pickle": lambda file: file.write_bytes(pickle.dumps(Evil())),
        "a list": lambda file: torch.save([torch.zeros(3)], file),
        "a number among tensors": lambda file: torch.save({"w": torch.zeros(3), "step": 3}, file),
        "truncated": lambda file: file.write_bytes((path / "whole").read_bytes()[:200]),
        "empty": lambda file: file.write_bytes(b""),
        "truncated before 1.6": lambda file: older(file, {"w": torch.zeros(1000)}) or os.truncate(file, 500),
        "a page": lambda file: file.write_bytes(b"<html>not found</html>"),
        "safetensors": lambda file: save_file({"w": np.zeros(3, np.float32)}, file),
        "an archive": lambda file: file.write_bytes(b"PK\x03\x04" + bytes(100)),
    }


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("code in a zip", "Unsupported global"),
        ("code in a plain pickle", "more than plain tensors"),
        ("a list", "it holds a list"),
        ("a number among tensors", "`step` is a int"),
        ("truncated", "is damaged"),
        ("truncated before 1.6", "is damaged"),
        ("empty", "is empty"),
        ("a page", "begins with b'<html>no'"),
        ("safetensors", "is a safetensors file"),
        ("an archive", "is damaged"),
    ],
)
def test_pickles_that_are_not_plain_tensors_are_refused_and_not_run(
    tmp_path: Path, case: str, said: str
) -> None:
    pickles(tmp_path)[case](tmp_path / "pytorch_model.bin")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught, open_weights(tmp_path):
        pass
    assert caught.value.code == "MM406"
    assert "\n" not in caught.value.message
    assert said in caught.value.message
    assert "weights_only" not in caught.value.message, "torch's advice to run the code"
    assert caught.value.__cause__ is None
    assert not Path("/tmp/mmbuild-evil").exists()


def older(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As torch before 1.6 saved it."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def test_small_pickles_from_before_torch_1_6_are_read_whole(tmp_path: Path) -> None:
    weight = torch.randn(4, 6).half()
    older(tmp_path / "pytorch_model.bin", {"w": weight})
    with open_weights(tmp_path) as stored:
        assert stored["w"].read(TensorSlice(rows=(1, 3))).equal(weight[1:3])


def test_large_ones_are_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbuild.models.checkpoint.hf_weights._READ_WHOLE", 5_000)
    names = ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    for name in names:
        older(tmp_path / name, {name: torch.zeros(1000)})
    index = {"weight_map": {name: name for name in names}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="2 such files") as caught, open_weights(tmp_path):
        pass
    assert caught.value.code == "MM407"
    assert "torch.save(torch.load(" in (caught.value.hint or "")


def test_the_demo_model_opens() -> None:
    with open_weights(disk.DEMO) as stored:
        assert "language_model.lm_head.weight" in stored
