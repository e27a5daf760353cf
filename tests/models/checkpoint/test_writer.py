import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mmbuild.models.checkpoint import writer
from support.examples import examples

DTYPES = ("float32", "float16", "bfloat16", "int8")
shapes = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=6)


def make(entries: list[writer.TensorEntry]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(entries))
    return {
        entry.name: torch.randint(-100, 100, entry.shape, generator=generator).to(getattr(torch, entry.dtype))
        for entry in entries
    }


@settings(max_examples=examples(40), deadline=None)
@given(shapes, st.sampled_from(DTYPES))
def test_safetensors_reads_back_what_was_written(shapes: list[tuple[int, ...]], dtype: str) -> None:
    import tempfile

    entries = writer.layout(writer.TensorEntry(f"t{i}", dtype, shape) for i, shape in enumerate(shapes))
    tensors = make(entries)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file.safetensors")
        writer.write(path, entries, ((e.name, [tensors[e.name][:1], tensors[e.name][1:]]) for e in entries))
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(tensors)
            for name, tensor in tensors.items():
                assert torch.equal(file.get_tensor(name), tensor)


def test_data_and_every_tensor_of_a_fitting_size_begin_on_64_bytes(tmp_path: Path) -> None:
    sizes = [(3,), (64,), (5, 7), (32, 64), (1,), (128,)]
    entries = writer.layout(writer.TensorEntry(f"t{i}", "float16", shape) for i, shape in enumerate(sizes))
    path = tmp_path / "file.safetensors"
    writer.write(path, entries, ((name, [tensor]) for name, tensor in make(entries).items()))
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert (8 + length) % 64 == 0
    fitting = [e for e in entries if e.size % 64 == 0]
    assert len(fitting) == 3
    assert all(header[e.name]["data_offsets"][0] % 64 == 0 for e in fitting)


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"old")
    entries = [writer.TensorEntry("a", "float32", (4,)), writer.TensorEntry("b", "float32", (4,))]

    def broken():  # type: ignore[no-untyped-def]
        yield "a", [torch.zeros(4)]
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        writer.write(path, entries, broken())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.safetensors"]


def test_bytes_that_do_not_fill_the_promised_shape_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        writer.write(
            tmp_path / "f", [writer.TensorEntry("a", "float32", (4,))], iter([("a", [torch.zeros(3)])])
        )
