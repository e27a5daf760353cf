"""Precompiled headers are found again, as long as all that they depend on is the same."""

from pathlib import Path

import pytest

from mmbuild.backends.torch.package_runtime import kept_headers


class Compiler:
    """Precompiles headers into a directory, and counts."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.calls = directory, 0

    def __call__(self, header: str, command: str, **options: object) -> str:
        self.calls += 1
        path = self.directory / f"{self.calls}.h"
        path.write_text(f"#include <{header}>")
        path.with_suffix(".h.gch").write_text(f"{command} {options}")
        return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_headers, "default_cache_dir", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmbuild-headers"


@pytest.fixture
def compiler(tmp_path):
    return Compiler(tmp_path)


def found(compiler, header="a.h", command="g++", surroundings=b"", **options):
    """As another process finds it, which has only the files."""
    return kept_headers.remembered(compiler, lambda: surroundings)(header, command, **options)


def test_an_equal_command_gives_the_same_header_without_precompiling(compiler):
    first = found(compiler, vec_isa="avx2", min_optimize=True)
    assert found(compiler, min_optimize=True, vec_isa="avx2") == first
    assert compiler.calls == 1


@pytest.mark.parametrize(
    "other",
    [{"header": "b.h"}, {"command": "g++ -O1"}, {"surroundings": b"a newer g++"}, {"vec_isa": "avx512"}],
)
def test_another_header_command_option_or_compiler_is_precompiled(compiler, other):
    assert found(compiler) != found(compiler, **other)
    assert compiler.calls == 2


@pytest.mark.parametrize("ending", ["", ".gch"])
def test_a_header_that_was_removed_is_precompiled_again(compiler, ending):
    Path(found(compiler) + ending).unlink()
    assert Path(found(compiler)).is_file()
    assert compiler.calls == 2


@pytest.mark.parametrize("damage", [b"", b"\xff\0", b"x" * 10_000])
def test_a_damaged_note_is_no_note(compiler, cache, damage):
    found(compiler)
    (note,) = cache.iterdir()
    note.write_bytes(damage)
    found(compiler)
    assert compiler.calls == 2


def test_notes_in_a_directory_that_others_can_write_to_are_not_read(compiler, cache):
    found(compiler)
    cache.chmod(0o777)
    found(compiler)
    assert compiler.calls == 2


def test_a_header_that_could_not_be_precompiled_is_not_noted(cache):
    assert found(lambda *_, **__: "/nowhere.h") == "/nowhere.h"
    assert list(cache.iterdir()) == []
