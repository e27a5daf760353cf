"""Hashing: the same digests whatever the size, the number of files and the number of threads."""

import random
from pathlib import Path

import pytest
from blake3 import blake3

from mmbuild.core.store.hashing import hash_file, hash_files

SIZES = (0, 1, 4095, 20_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000)


@pytest.fixture
def written(tmp_path):
    rng = random.Random(3)
    contents = [rng.randbytes(rng.choice(SIZES)) for _ in range(40)]
    paths = [tmp_path / f"f{number}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths, [blake3(content).hexdigest() for content in contents]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_has_the_digest_of_its_bytes(tmp_path, size):
    content = random.Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(content)
    assert hash_file(tmp_path / "f") == blake3(content).hexdigest()


@pytest.mark.parametrize("threads", [None, 1, 2, 7])
def test_many_files_have_the_digests_of_each(written, threads):
    paths, digests = written
    assert hash_files(paths, threads) == digests
    assert hash_files(paths[:1], threads) == digests[:1]
    assert hash_files([], threads) == []


def test_a_file_without_a_length_is_read_to_its_end():
    """Files of proc(5) say that they have no bytes."""
    limits = Path("/proc/self/limits")
    assert hash_file(limits) == blake3(limits.read_bytes()).hexdigest()


def test_a_file_that_cannot_be_read_is_reported_among_many(written, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        hash_files([*written[0], tmp_path / "absent"], 2)
