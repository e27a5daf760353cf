"""Weight files are of the format that their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save

from mmbuild.models.files.weight_files import other_format

# Headers of 128 and of 640 bytes: the first bytes of their files are those of a pickle.
TENSORS = save({}, {"a": "x" * 100})
LOOKALIKES = [
    length.to_bytes(8, "little") + b'{"a":1' + b" " * (length - 7) + b"}" for length in (0x80, 0x280)
]


@pytest.mark.parametrize("content", [TENSORS, *LOOKALIKES])
def test_safetensors_are_told_from_pickles_whatever_their_length(tmp_path: Path, content: bytes) -> None:
    for name, expected in (("model.safetensors", None), ("pytorch_model.bin", "is a safetensors file")):
        (tmp_path / name).write_bytes(content)
        found = other_format(tmp_path / name)
        assert (found is None) == (expected is None)
        assert found is None or (expected is not None and found.problem.startswith(expected))


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(60), b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", b"\x80"]
)
def test_pickles_are_told_from_safetensors(tmp_path: Path, content: bytes) -> None:
    for name, code in (("model.safetensors", "MM403"), ("pytorch_model.bin", None)):
        (tmp_path / name).write_bytes(content)
        found = other_format(tmp_path / name)
        assert (None if found is None else found.code) == code
