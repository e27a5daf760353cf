import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.base.errors import MmbuildError
from mmbuild.models.errors import SourceError
from mmbuild.models.families import family
from mmbuild.models.validation.integrity import check_model, read_header, require_files
from support.errors import refused
from support.examples import examples
from support.models import weights_on_disk as disk

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2687736\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model of two shards and 4 visual features."""
    content, rng = disk.config(), np.random.default_rng(0)
    tensors = disk.decoder(content, rng) | disk.visual(content, rng)
    return disk.write_model(tmp_path / "model", content, tensors, shards=2)


@pytest.fixture
def check(model: Path) -> Callable[[Path], None]:
    """``check(directory)``: as the step would, planned with the config that ``model`` has now."""
    config = json.loads((model / "config.json").read_text())
    facts = asdict(family("llava").facts(config))
    return lambda directory: check_model(directory, "llava", "model", {"model": config}, facts)


def test_a_whole_model_passes(model: Path, check: Callable[[Path], None]) -> None:
    check(model)


def truncate(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def edit_config(model: Path, **changes: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SHARD = "model-00002-of-00002.safetensors"
FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "last byte of a shard cut": (lambda m: truncate(m / SHARD, -1), "MM403", SHARD),
    "shard cut in its header": (lambda m: truncate(m / SHARD, 100), "MM403", SHARD),
    "empty shard": (lambda m: truncate(m / SHARD, 0), "MM403", SHARD),
    "shard with a tail": (lambda m: (m / SHARD).open("ab").write(b"x"), "MM403", SHARD),
    "shard of zeros": (lambda m: (m / SHARD).write_bytes(bytes(5000)), "MM403", SHARD),
    "shard missing": (lambda m: (m / SHARD).unlink(), "MM405", SHARD),
    "weights are a pointer": (lambda m: (m / SHARD).write_bytes(POINTER), "MM404", SHARD),
    "tokenizer is a pointer": (
        lambda m: (m / "tokenizer.json").write_bytes(POINTER),
        "MM404",
        "tokenizer.json",
    ),
    "config is a pointer": (lambda m: (m / "config.json").write_bytes(POINTER), "MM404", "config.json"),
    "index is broken": (lambda m: truncate(m / "model.safetensors.index.json", 30), "MM403", "index"),
    "config missing": (lambda m: (m / "config.json").unlink(), "MM402", "config.json"),
    "config cut": (lambda m: truncate(m / "config.json", 30), "MM411", "config.json"),
    "another family": (lambda m: edit_config(m, model_type="blip-2"), "MM410", "blip-2"),
    "another tower": (
        lambda m: edit_config(m, vision_config={"model_type": "siglip_vision_model"}),
        "MM410",
        "siglip",
    ),
    "other features": (
        lambda m: edit_config(m, vision_config={"image_size": 24, "patch_size": 8}),
        "MM412",
        "implies num_visual_features (24 // 8)^2 = 9, but the build was planned with (16 // 8)^2 = 4",
    ),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "MM402", "tokenizer.json"),
    "no processor": (lambda m: (m / "processor_config.json").unlink(), "MM402", "preprocessor_config.json"),
    "no weights": (
        lambda m: [path.unlink() for path in m.iterdir() if path.name.startswith("model")],
        "MM402",
        "contains no weights",
    ),
}


def edit_text(model: Path, **changes: object) -> None:
    edit_config(model, text_config=disk.config(**changes)["text_config"])


def edit_processor(model: Path, **changes: object) -> None:
    path = model / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# A model of the hub as it is, so that the build is planned with the same config.json.
CONTRADICTIONS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "vocabulary": (
        lambda m: edit_text(m, vocab_size=60),
        "MM738",
        "`text_config.vocab_size` in config.json is 60, and the embedding "
        "`language_model.model.embed_tokens.weight` in `model-00002-of-00002.safetensors` has 50 rows",
    ),
    "image token": (
        lambda m: edit_config(m, image_token_index=5),
        "MM737",
        "`image_token_index` in config.json is 5, the tokenizer's `.`, and the processor's image token is `<image>` "
        "with id 4 (`tokenizer.json`)",
    ),
    "placeholders": (
        lambda m: edit_processor(m, patch_size=4),
        "MM740",
        "`processor_config.json` has `patch_size` 4",
    ),
    "leftover": (
        lambda m: shutil.copy(m / SHARD, m / "model-00003-of-00003.safetensors"),
        "MM733",
        "the model holds `model-00003-of-00003.safetensors`, and `model.safetensors.index.json` names",
    ),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_files_that_contradict_each_other_are_refused_when_they_have_been_downloaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    spoil, code, words = CONTRADICTIONS[kind]
    spoil(model)
    config = json.loads((model / "config.json").read_text())
    facts = asdict(family("llava").facts(config))
    monkeypatch.chdir(tmp_path)
    model.rename("out")  # where a step finds it
    error = refused(MmbuildError, code, check_model, Path("out"), "llava", "model", {"model": config}, facts)
    assert words in error.message


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_refused_with_its_file_and_code(
    model: Path, check: Callable[[Path], None], fault: str
) -> None:
    spoil, code, words = FAULTS[fault]
    spoil(model)
    with pytest.raises(MmbuildError) as caught:
        check(model)
    assert caught.value.code == code
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_a_pickle_with_more_than_tensors_is_refused(model: Path, check: Callable[[Path], None]) -> None:
    import torch

    for path in model.glob("model*"):
        path.unlink()
    torch.save({"w": torch.zeros(2), "epoch": 3}, model / "pytorch_model.bin")
    with pytest.raises(MmbuildError, match="`epoch` is a int") as caught:
        check(model)
    assert caught.value.code == "MM406"


def test_a_linked_file_is_called_by_the_user_s_own_path(
    model: Path, check: Callable[[Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    truncate(model / SHARD, -1)
    for path in model.iterdir():
        (out / path.name).symlink_to(path)
    with pytest.raises(SourceError) as caught:
        check(out)
    assert str(model / SHARD) in caught.value.message


def test_the_header_names_the_tensors() -> None:
    header = read_header(disk.DEMO / "model.safetensors")
    assert header["language_model.lm_head.weight"]["dtype"] == "F16"


@settings(max_examples=examples(60), deadline=None)
@given(st.binary(max_size=300), st.integers(0, 40))
def test_noise_is_an_error_of_ours_and_never_a_crash(noise: bytes, length: int) -> None:
    import tempfile

    for data in (
        noise,
        length.to_bytes(8, "little") + noise,
        length.to_bytes(8, "little") + b'{"a":' + noise,
    ):
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            with pytest.raises(SourceError) as caught:
                read_header(Path(file.name))
            assert caught.value.code == "MM403"


def test_files_next_to_the_model_are_ignored(model: Path, check: Callable[[Path], None]) -> None:
    (model / "notes.bin").write_bytes(POINTER)
    shutil.copyfile(disk.DEMO / "README.md", model / "README.md")
    check(model)


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """The names of a model in three directories; no file holds anything."""
    for name in ("config.json", *(f"{part}/{file}" for part in PARTED for file in PARTED[part])):
        (tmp_path / "parted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "parted" / name).touch()
    return tmp_path / "parted"


PARTED = {
    "llm": ("config.json", "model.safetensors", "tokenizer.json"),
    "vision_tower": ("config.json", "model.safetensors", "preprocessor_config.json"),
    "mm_projector": ("config.json", "pytorch_model.bin"),
}


def test_a_model_in_directories_has_weights_in_each_of_them(parted: Path) -> None:
    require_files(parted, "model", 1, tuple(PARTED))
    for part in PARTED:
        (weights,) = (path for path in (parted / part).iterdir() if path.suffix in (".safetensors", ".bin"))
        weights.unlink()
        error = refused(MmbuildError, "MM402", require_files, parted, "model", 1, tuple(PARTED))
        assert f"`{parted / part}` contains no weights" in error.message
        weights.touch()


def test_weights_of_a_model_in_directories_may_be_in_one_file(parted: Path) -> None:
    for part in PARTED:
        for path in (parted / part).glob("*model.*"):
            path.unlink()
    (parted / "model.safetensors").touch()
    require_files(parted, "model", 1, tuple(PARTED))


def test_of_two_sources_each_holds_its_own_part(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert "tokenizer.json" in refused(MmbuildError, "MM402", require_files, tmp_path, "model", 2).message
    assert "preprocessor" in refused(MmbuildError, "MM402", require_files, tmp_path, "vision", 2).message
    (tmp_path / "tokenizer.json").touch()
    require_files(tmp_path, "model", 2)


def test_directories_below_a_model_that_are_none_of_it_are_left_alone(model: Path) -> None:
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors.index.json").write_text("not an index")
    require_files(model, "model", 1)
