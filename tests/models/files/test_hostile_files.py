"""Readers of a model's files reject files of other kinds."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.engine_dir.wrong_directory import instead_of_engine
from mmbuild.backends.tensorrt_llm.output_checks import files as products
from mmbuild.backends.tensorrt_llm.toolchains import checkpoint_reader
from mmbuild.backends.visual.config import make_config, read_description
from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError
from mmbuild.config.load import load as load_configuration
from mmbuild.evaluation import engine_manifest
from mmbuild.models.checkpoint import reader
from mmbuild.models.checkpoint.hf_weights import open_weights, own_weight_files, weight_files
from mmbuild.models.families.shared import hugging_face
from mmbuild.models.families.shared.config_reading import saved_config
from mmbuild.models.files import generation_settings, small_files
from mmbuild.models.files import weight_files as pickles
from mmbuild.models.files.sentencepiece_file import pieces
from mmbuild.models.sources import hub_index
from mmbuild.models.sources.config import read_config
from mmbuild.models.validation import integrity
from mmbuild.team.lockfile.model import read_lock

Read = Callable[[Path], Any]
# What reads a file, and the file's name.
READERS: dict[str, tuple[Read, str]] = {
    "JSON of a model": (lambda at: small_files.read_json(at / "a.json"), "a.json"),
    "text of a model": (lambda at: small_files.read_text(at / "a.jinja"), "a.jinja"),
    "pieces": (lambda at: pieces(at / "tokenizer.model"), "tokenizer.model"),
    "config": (lambda at: read_config(".", None, at), "config.json"),
    "saved config": (saved_config, "config.json"),
    "generation settings": (
        lambda at: generation_settings.files_of(at)("generation_config.json"),
        "generation_config.json",
    ),
    "header": (lambda at: integrity.read_header(at / "a.safetensors"), "a.safetensors"),
    "index": (own_weight_files, "model.safetensors.index.json"),
    "weights": (lambda at: open_weights(at).__enter__(), "model.safetensors"),
    "pickle": (lambda at: open_weights(at).__enter__(), "pytorch_model.bin"),
    "checkpoint's config": (reader.load_config, "config.json"),
    "checkpoint's tensors": (lambda at: reader.open_tensors(at, 0), "rank0.safetensors"),
    "checkpoint for TensorRT-LLM": (checkpoint_reader.lines_that_read, "config.json"),
    "product's config": (lambda at: products.read_json(at / "config.json"), "config.json"),
    "product's header": (lambda at: products.read_header(at / "a.safetensors"), "a.safetensors"),
    "visual engine": (read_description, "visual.json"),
    "lock": (lambda at: read_lock(at / "recipe.lock"), "recipe.lock"),
    "configuration": (lambda at: load_configuration(at / "config.yaml"), "config.yaml"),
}


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "directory"])
@pytest.mark.parametrize(("read", "name"), READERS.values(), ids=READERS)
def test_every_reader_refuses_what_is_not_a_regular_file(
    tmp_path: Path, read: Read, name: str, kind: str
) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    elif kind == "directory":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).symlink_to(kind)
    with pytest.raises(MmbuildError) as caught:
        read(tmp_path)
    assert caught.value.code.startswith("MM")
    assert any(word in caught.value.message for word in ("pipe", "device", "directory"))


TEXTS = {
    "infinity": b'{"a": Infinity}',
    "a huge number": b'{"a": 1e999}',
    "many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "nesting": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "another encoding": '{"a": "ü"}'.encode("utf-16"),
    "a surrogate": b'{"a": "\\ud800"}',
    "an array": b"[1]",
    "nothing": b"",
}
JSON_READERS = {
    name: READERS[name]
    for name in (
        "JSON of a model",
        "config",
        "saved config",
        "generation settings",
        "index",
        "checkpoint's config",
        "checkpoint for TensorRT-LLM",
        "product's config",
        "visual engine",
    )
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(("read", "name"), JSON_READERS.values(), ids=JSON_READERS)
def test_every_reader_of_json_refuses_what_is_not_plain_json(
    tmp_path: Path, read: Read, name: str, text: bytes
) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(MmbuildError) as caught:
        read(tmp_path)
    assert len(caught.value.message) < 1_000


@pytest.mark.parametrize(
    "text", [b"a: [", b"&a [*a]", b"[" * 1000, b"\xff", b"!!python/name:os.system", b"- 1"]
)
def test_a_damaged_lock_is_a_coded_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.lock").write_bytes(text)
    with pytest.raises(MmbuildError) as caught:
        read_lock(tmp_path / "a.lock")
    assert caught.value.code == "MM801"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ({"a": 7}, "MM403"),
        ({"a": None}, "MM403"),
        ([], "MM403"),
        ({"a": "../../secret.safetensors"}, "MM733"),
        ({"a": "/etc/passwd"}, "MM733"),
        ({"a": "x" * 5000}, "MM733"),
        ({"a": "a\0b"}, "MM733"),
        ({"a": ""}, "MM733"),
        ({"a": "."}, "MM733"),
        ({"a": "notes.txt"}, "MM733"),
        ({"a": "model-00001-of-00002.safetensors"}, "MM405"),
        ({"a": "model-00001-of-00002.safetensors/../../b"}, "MM733"),
    ],
)
def test_an_index_names_weight_files_next_to_it(tmp_path: Path, names: object, code: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(MmbuildError) as caught:
        weight_files(tmp_path)
    assert caught.value.code == code
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x05\x06" + b"\xff" * 18, b"PK\x05\x06" + b"\0" * 18])
def test_a_damaged_archive_of_a_pickle_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    assert list(pickles._records(tmp_path / "a.bin")) == []
    assert not pickles._mentions(tmp_path / "a.bin", {b"FloatStorage"})


def test_a_pickle_that_unpacks_to_gigabytes_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "_MOST_WORDS", 1000)
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 1_000_000 + b"\nFloatStorage\n")
    assert not pickles._mentions(tmp_path / "a.bin", {b"FloatStorage"})


@pytest.mark.parametrize("text", ["{", "[1]", '{"format_version": 1, "files": []}', "[" * 10_000])
def test_a_damaged_listing_of_the_hub_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(hub_index, "repo_folder", lambda _: tmp_path)
    (tmp_path / "mmbuild").mkdir()
    (tmp_path / "mmbuild/abc.json").write_text(text)
    assert hub_index.cached_listing("a/b", "abc") is None


def test_a_pipe_next_to_a_tokenizer_is_found_before_transformers_opens_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(FileRefusedError):
        hugging_face.saved_tokenizer(tmp_path)


def test_what_is_named_instead_of_an_engine_is_looked_at_with_care(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").symlink_to("/dev/zero")
    (tmp_path / "c.yaml").write_text("[" * 10_000)
    assert "not an engine" in instead_of_engine(tmp_path)[0]
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    assert engine_manifest.read(tmp_path) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", "float17"),
        ("dtype", ["float32"]),
        ("feature_dtype", None),
        ("max_batch_size", 0),
        ("max_batch_size", 10**9),
        ("max_batch_size", True),
        ("num_visual_features", "16"),
        ("image_size", 28),
        ("image_size", [28]),
        ("image_size", "ab"),
        ("image_size", [28, -1]),
        ("more", 1),
    ],
)
def test_a_visual_engine_states_what_one_can_have(tmp_path: Path, key: str, value: object) -> None:
    right = {
        "dtype": "float32",
        "feature_dtype": "float16",
        "max_batch_size": 1,
        "num_visual_features": 16,
        "image_size": [28, 28],
    }
    (tmp_path / "visual.json").write_text(json.dumps(right))
    assert make_config(read_description(tmp_path)).image_size == (28, 28)
    (tmp_path / "visual.json").write_text(json.dumps({**right, key: value}))
    with pytest.raises(MmbuildError) as caught:
        read_description(tmp_path)
    assert caught.value.code == "MM501"
