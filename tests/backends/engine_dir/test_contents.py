"""Whether a build holds what was built, before anything of it is loaded."""

import json
import os
import pickle

import pytest
from blake3 import blake3

from mmbuild.backends.engine_dir import contents
from mmbuild.backends.engine_dir.contents import ContentsError, check
from mmbuild.backends.engine_dir.description import LayoutError
from mmbuild.backends.engine_dir.digest_cache import DigestCache

FILES = {
    "engine.json": b"{}",
    "llm/decode.pt2": b"code",
    "llm/rank0.safetensors": b"weights",
    "processor/tokenizer.json": b"words",
    "verify/report.json": b"report",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmbuild" / "hashed.json"


@pytest.fixture
def build(tmp_path):
    directory = tmp_path / "build"
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    listed = {name: {"size": len(data), "blake3": blake3(data).hexdigest()} for name, data in FILES.items()}
    (directory / "manifest.json").write_text(json.dumps({"files": listed}))
    return directory


def refused(build, code="MM761", **how):
    with pytest.raises(ContentsError) as caught:
        check(build, **how)
    assert caught.value.code == code
    return caught.value


def test_what_was_built_is_accepted(build):
    assert check(build) is None


def write(name, content):
    return lambda build: (build / name).write_bytes(content)


def replace_by_fifo(build):
    (build / "llm/decode.pt2").unlink()
    os.mkfifo(build / "llm/decode.pt2")


def replace_by_device(build):
    (build / "llm/decode.pt2").unlink()
    (build / "llm/decode.pt2").symlink_to("/dev/zero")


def replace_by_directory(build):
    (build / "llm/decode.pt2").unlink()
    (build / "llm/decode.pt2").mkdir()


def link_of_a_directory(build):
    (build / "processor/more").symlink_to("/etc")


@pytest.mark.parametrize(
    ("change", "named", "what"),
    [
        (write("llm/decode.pt2", b"evil"), "llm/decode.pt2", "differs from the built file"),
        (write("engine.json", b"[]"), "engine.json", "differs from the built file"),
        (write("verify/report.json", b"repast"), "verify/report.json", "differs from the built file"),
        (write("llm/decode.pt2", b"longer code"), "llm/decode.pt2", "has 11 bytes instead of 4"),
        (write("processor/tokenizer.json", b""), "processor/tokenizer.json", "has 0 bytes"),
        (lambda build: (build / "llm/rank0.safetensors").unlink(), "llm/rank0.safetensors", "is missing"),
        (lambda build: (build / "engine.json").unlink(), "engine.json", "is missing"),
        (replace_by_fifo, "llm/decode.pt2", "is a named pipe"),
        (replace_by_device, "llm/decode.pt2", "is a device"),
        (replace_by_directory, "llm/decode.pt2", "is a directory"),
        (write("processor/chat_template.jinja", b"x"), "processor/chat_template.jinja", "was added"),
        (write("llm/encode.pt2", b"x"), "llm/encode.pt2", "was added"),
        (link_of_a_directory, "processor/more", "was added"),
    ],
)
def test_what_differs_is_named_with_what_differs(build, change, named, what):
    change(build)
    error = refused(build)
    assert f"`{named}` {what}" in error.message
    assert "mmbuild apply" in error.hint
    assert "--no-check" in error.hint


def test_all_files_that_differ_are_named(build):
    for name in FILES:
        (build / name).write_bytes(b"other bytes of another length")
    error = refused(build)
    assert "and 2 more" in error.message
    assert all(any(name in line for line in error.details) for name in FILES)
    assert pickle.loads(pickle.dumps(error)).details == error.details


def test_answers_and_reports_next_to_the_engine_are_no_part_of_it(build):
    (build / "answers.txt").write_text("two")
    (build / "report.json").write_text("{}")
    (build / "verify" / "more.png").write_bytes(b"")
    assert check(build) is None


def test_without_a_manifest_nothing_is_loaded(build):
    (build / "manifest.json").unlink()
    assert "no manifest.json" in refused(build, "MM760").message
    assert check(build, loads=False).code == "MM760"


def test_a_directory_that_is_not_an_engine_is_reported(tmp_path):
    with pytest.raises(LayoutError) as caught:
        check(tmp_path)
    assert caught.value.code == "MM540"


def test_a_manifest_of_an_earlier_version_is_accepted_with_the_way_to_digests(build):
    (build / "manifest.json").write_text(json.dumps({"files": list(FILES)}))
    doubt = check(build)
    assert doubt.code == "MM762"
    assert "mmbuild apply" in doubt.hint
    with pytest.warns(UserWarning, match="MM762"):
        contents.require(build)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": 7}',
        '{"files": [7]}',
        '{"files": {"a": "b"}}',
        '{"files": {"../a": {"size": 1, "blake3": "%s"}}}' % ("0" * 64),
        '{"files": {"/etc/passwd": {"size": 1, "blake3": "%s"}}}' % ("0" * 64),
        '{"files": {"a": {"size": -1, "blake3": "%s"}}}' % ("0" * 64),
        '{"files": {"a": {"size": 1, "blake3": "short"}}}',
        '{"files": ' + "[" * 5000,
        "\x00",
    ],
)
def test_a_damaged_manifest_is_refused(build, text):
    (build / "manifest.json").write_text(text)
    refused(build, "MM763")


@pytest.fixture
def large(build, monkeypatch):
    """The weights count as large, and were written long ago."""
    monkeypatch.setattr(contents, "SMALL", len(b"weights") - 1)
    os.utime(build / "llm/rank0.safetensors", (1, 1))
    monkeypatch.setattr("mmbuild.backends.engine_dir.digest_cache._SETTLED_NS", -1)
    return build / "llm/rank0.safetensors"


def hashed(build):
    """Bytes of large files that a check hashes."""
    seen = []
    check(build, progress=lambda *counts: seen.append(counts[0]))
    return max(seen, default=0)


def test_a_large_file_is_hashed_once_and_again_after_it_changed(build, large):
    assert hashed(build) == len(b"weights")
    assert hashed(build) == 0
    os.utime(large, (2, 2))
    assert hashed(build) == len(b"weights")
    large.write_bytes(b"WEIGHTS")
    os.utime(large, (2, 2))
    assert "llm/rank0.safetensors" in refused(build).message


def test_a_copied_large_file_is_hashed_once(build, large):
    check(build)
    large.rename(large.with_name("old"))
    large.write_bytes(b"weights")
    (large.with_name("old")).unlink()
    assert hashed(build) == len(b"weights")
    assert hashed(build) == 0


def test_a_known_large_file_that_differs_is_refused_from_memory(build, large):
    large.write_bytes(b"WEIGHTS")
    for _ in range(2):
        refused(build)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damage", ["", "{}", "[", '{"checksum": "%s", "files": {}}' % ("0" * 64)])
def test_a_damaged_memory_costs_another_hash(build, cache, damage):
    check(build)
    cache.write_text(damage)
    assert hashed(build) == len(b"weights")
    assert hashed(build) == 0


def test_a_digest_that_was_changed_in_the_memory_is_not_believed(build, large, cache):
    check(build)
    cache.write_text(
        cache.read_text().replace(blake3(b"weights").hexdigest(), blake3(b"WEIGHTS").hexdigest())
    )
    large.write_bytes(b"WEIGHTS")
    refused(build)


@pytest.mark.usefixtures("large")
def test_an_unwritable_cache_is_not_an_error(build, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    check(build)
    assert hashed(build) == len(b"weights")


def test_where_nothing_is_loaded_large_files_are_compared_by_size(build, large):
    large.write_bytes(b"WEIGHTS")
    assert check(build, loads=False) is None
    large.write_bytes(b"short")
    refused(build, loads=False)


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    known = DigestCache(tmp_path / "hashed.json")
    known.add(path.stat(), path.stat(), "0" * 64)
    known.save()
    assert DigestCache(tmp_path / "hashed.json").digest(path.stat()) is None
