"""Headers of safetensors files: a header that does not match its file is refused before a library opens it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmbuild.base.files import FileRefusedError
from mmbuild.base.safetensors_header import (
    HeaderProblemError,
    parse_tensor_header,
    read_tensor_header,
    require_header,
)


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def text(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def write(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(4, dtype=torch.int8),
        "c": torch.zeros(2, 0),
        "d": torch.tensor(1, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    found = read_tensor_header(tmp_path / "x")
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "a": "F32",
        "b": "I8",
        "c": "F32",
        "d": "BF16",
    }


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "is not JSON"),
        (b"[" * 100 + b"]" * 100, "nested deeper"),
        (text(a=1), "no dtype, shape and data_offsets"),
        (text(a={"dtype": "F32", "shape": [2]}), "no dtype, shape and data_offsets"),
        (text(a=entry(more=1)), "no dtype, shape and data_offsets"),
        (text(a=entry("F33")), "unknown number format"),
        (text(a=entry(dtype=["F32"])), "unknown number format"),  # type: ignore[arg-type]
        (text(a=entry(shape=(-2,))), "no usable shape"),
        (text(a=entry(shape=(2.0,))), "no usable shape"),
        (text(a=entry(shape=(True, 2))), "no usable shape"),
        (text(a=entry(shape=(10**30,))), "no usable shape"),
        (text(a=entry(shape=(1,) * 65, offsets=(0, 4))), "no usable shape"),
        (text(a=entry(offsets=(8, 0))), "no usable data_offsets"),
        (text(a=entry(offsets=(0,))), "no usable data_offsets"),
        (text(a=entry(offsets=(0, 8, 8))), "no usable data_offsets"),
        (text(a=entry(offsets=(-8, 0))), "no usable data_offsets"),
        (text(a=entry("F16")), "takes 4"),
        (text(a=entry("F4", (3,), (0, 1))), "takes"),
        (text(a=entry(shape=(2**40, 2**40))), "takes"),
        (text(a=entry(offsets=(8, 16))), "begin at 8"),
        (text(a=entry(), b=entry()), "begin at 0"),
        (text(a=entry(), b=entry(offsets=(4, 12))), "begin at 4"),
        (text(a=entry(), b=entry(offsets=(9, 17))), "begin at 9"),
        (b'{"a":' + text(a=1)[5:-1] + b',"a":1}', "`a` twice"),
        (text(**{"x" * 5000: entry()}), "not a usable name"),
        (text(**{"a\0b": entry()}), "not a usable name"),
        (text(__metadata__=[]), "not a mapping of texts"),
        (text(__metadata__={"a": 1}), "not a mapping of texts"),
    ],
)
def test_a_header_that_states_what_cannot_be_is_refused(header: bytes, problem: str) -> None:
    with pytest.raises(HeaderProblemError, match=problem):
        parse_tensor_header(header)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 9])
def test_a_file_is_as_long_as_its_header_says(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(HeaderProblemError, match="describes"):
        read_tensor_header(write(tmp_path / "x", text(a=entry()), data))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, struct.pack("<Q", 10**15), struct.pack("<Q", 100) + b"{}"]
)
def test_a_truncated_header_is_refused_without_reading_on(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(HeaderProblemError, match="header would take"):
        read_tensor_header(tmp_path / "x")


def test_a_device_is_not_a_weight_file(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/dev/zero")
    with pytest.raises(FileRefusedError):
        read_tensor_header(tmp_path / "x")
    with pytest.raises(HeaderProblemError, match="device"):
        require_header(tmp_path / "x")
