"""The hub source against the real ``huggingface_hub`` client and a hub server on the loopback interface."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from mmbuild.base.progress import BYTES, Amount, as_amount, silent
from mmbuild.models.errors import SourceError
from mmbuild.models.sources import hub as source
from mmbuild.models.sources import hub_download, hub_index
from mmbuild.models.sources.resolve import identify
from support.models import weights_on_disk as disk
from support.servers.hub import Hub, commit_id, model_files, running

FIRST, SECOND = commit_id(1), commit_id(2)
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the demo model at ``main``; the client's cache is empty and it never waits to retry."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    cache = str(tmp_path / "cache")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, cache, raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    files = {**model_files(disk.DEMO), "pytorch_model.bin": b"not fetched", "notes/more.txt": b"nor this"}
    with running(Hub(commits={FIRST: files}, branches={"main": FIRST})) as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield state


def fetch(hub: Hub, out: Path, commit: str = FIRST) -> dict[str, bytes]:
    out.mkdir()
    source.download(hub.repo, commit, out, silent)
    return model_files(out)


def needed() -> dict[str, bytes]:
    files = model_files(disk.DEMO)
    del files["README.md"]
    return files


def test_the_needed_files_arrive_and_no_others(hub: Hub, tmp_path: Path) -> None:
    assert fetch(hub, tmp_path / "out") == needed()
    assert hub.fetch_counts().keys() == needed().keys()


def test_what_is_in_the_cache_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "a")
    before = hub.fetch_counts()
    assert fetch(hub, tmp_path / "b") == needed()
    assert hub.fetch_counts() == before


def test_cut_connections_go_on_where_they_broke_off(hub: Hub, tmp_path: Path) -> None:
    hub.cut[WEIGHTS] = [500_000, 300_000, 1]
    assert fetch(hub, tmp_path / "out") == needed()
    starts = [entry[2] for entry in hub.log if entry[:2] == ("GET", WEIGHTS)]
    assert starts[0] is None
    assert len(starts) == 4
    assert all(start is not None for start in starts[1:]), "each later request asks for the rest only"


def test_a_download_killed_half_way_is_resumed_by_the_next(hub: Hub, tmp_path: Path) -> None:
    hub.cut[WEIGHTS] = [1_000_000, *[0] * 200]
    with pytest.raises(SourceError) as caught:
        fetch(hub, tmp_path / "a")
    assert caught.value.code == "MM422"
    assert not (tmp_path / "a" / WEIGHTS).exists()
    hub.cut.clear()
    hub.log.clear()
    assert fetch(hub, tmp_path / "b") == needed()
    (entry,) = [entry for entry in hub.log if entry[:2] == ("GET", WEIGHTS)]
    assert int(entry[2].removeprefix("bytes=").rstrip("-")) > 0


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_content_that_does_not_match_the_hub_s_digest_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    real = hub.commits[FIRST][name]
    hub.sent[name] = real[:-3] + b"xyz"
    with pytest.raises(SourceError, match="digest") as caught:
        fetch(hub, tmp_path / "out")
    assert caught.value.code == "MM423"
    assert name in caught.value.message
    assert hub.fetch_counts()[name] == 2, "asked for once more before giving up"


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "a")
    (blob,) = [path for path in (tmp_path / "cache").rglob("blobs/*") if path.stat().st_size > 1_000_000]
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.unlink()
    blob.write_bytes(data)
    assert fetch(hub, tmp_path / "b") == needed()


def test_a_file_of_another_size_than_stated_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.sent[WEIGHTS] = hub.commits[FIRST][WEIGHTS][:-100]
    with pytest.raises(SourceError, match=r"model\.safetensors") as caught:
        fetch(hub, tmp_path / "out")
    assert caught.value.code == "MM423"


def test_server_errors_are_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.fail[WEIGHTS] = [500, 503]
    assert fetch(hub, tmp_path / "out") == needed()


def test_a_branch_becomes_a_commit_and_the_download_stays_there_when_it_moves(
    hub: Hub, tmp_path: Path
) -> None:
    commit = source.resolve_revision(hub.repo, "main")
    assert commit == FIRST
    hub.commits[SECOND] = {**hub.commits[FIRST], "config.json": b'{"model_type": "other"}'}
    hub.branches["main"] = SECOND
    assert fetch(hub, tmp_path / "out", commit)["config.json"] == hub.commits[FIRST]["config.json"]
    assert source.resolve_revision(hub.repo, None) == SECOND


def test_a_commit_needs_no_request(hub: Hub) -> None:
    assert source.resolve_revision(hub.repo, SECOND) == SECOND
    assert hub.log == []


def test_offline_uses_the_last_answer(hub: Hub) -> None:
    with pytest.raises(SourceError) as caught:
        source.resolve_revision(hub.repo, "main", offline=True)
    assert caught.value.code == "MM422"
    source.resolve_revision(hub.repo, "main")
    hub.branches["main"] = SECOND
    assert source.resolve_revision(hub.repo, "main", offline=True) == FIRST


def test_a_hub_that_does_not_answer_leaves_the_last_answer_standing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.resolve_revision(hub.repo, "main")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert source.resolve_revision(hub.repo, "main") == FIRST
    with pytest.raises(SourceError) as caught:
        source.resolve_revision(hub.repo, "never-asked")
    assert caught.value.code == "MM422"
    assert "never-asked" in caught.value.message


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ((404, "RepoNotFound"), "MM420"),
        ((404, "RevisionNotFound"), "MM420"),
        ((401, "GatedRepo"), "MM421"),
        ((403, ""), "MM421"),
        ((418, ""), "MM422"),
    ],
)
def test_refusals_say_what_to_do(hub: Hub, tmp_path: Path, status: tuple[int, str], code: str) -> None:
    hub.status = status
    for attempt in (
        lambda: source.resolve_revision(hub.repo, "main"),
        lambda: source.fetch_config(hub.repo, FIRST),
        lambda: source.download(hub.repo, FIRST, tmp_path, silent),
    ):
        with pytest.raises(SourceError) as caught:
            attempt()
        assert caught.value.code == code
        assert caught.value.hint
        assert hub.repo in caught.value.message
        assert "\n" not in caught.value.message


def test_the_token_opens_a_private_model_and_is_not_disclosed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(SourceError) as caught:
        fetch(hub, tmp_path / "a")
    assert caught.value.code == "MM420"
    assert "HF_TOKEN" in (caught.value.hint or "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(hub, tmp_path / "b") == needed()
    identity = identify(f"hf://{hub.repo}", None, tmp_path, config={}, digest=lambda _: "", offline=False)
    assert "hf_secret" not in repr(identity)


def test_the_config_alone_is_fetched_for_planning(hub: Hub) -> None:
    assert source.fetch_config(hub.repo, "main")["model_type"] == "llava"
    assert hub.fetch_counts().keys() == {"config.json"}


def test_a_config_that_is_not_a_json_object(hub: Hub) -> None:
    hub.commits[FIRST] = {"config.json": b"[1]"}
    with pytest.raises(SourceError, match="not a JSON object"):
        source.fetch_config(hub.repo, FIRST)


def test_a_model_without_files_of_a_model(hub: Hub, tmp_path: Path) -> None:
    hub.commits[FIRST] = {"README.md": b"soon"}
    with pytest.raises(SourceError) as caught:
        fetch(hub, tmp_path / "out")
    assert caught.value.code == "MM402"


def test_identity_holds_repository_and_commit_and_no_path(hub: Hub, tmp_path: Path) -> None:
    identity = identify(f"hf://{hub.repo}", "main", tmp_path, config={}, digest=lambda _: "")
    assert identity.params == {"kind": "hf", "repo": hub.repo, "commit": FIRST}
    assert identity.revision == FIRST
    assert not identity.locators


def test_hf_endpoint_and_hf_home_are_honoured_from_the_environment(hub: Hub, tmp_path: Path) -> None:
    program = (
        "from mmbuild.models.sources.hub import download; from pathlib import Path;"
        f"download('{hub.repo}', '{FIRST}', Path('out'), print)"
    )
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert model_files(tmp_path / "out") == needed()
    assert (tmp_path / "home" / "hub").is_dir()


def test_a_full_disk_is_reported_and_partial_downloads_are_kept(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hub_download._Sink.write

    def full(sink: hub_download._Sink, chunk: bytes) -> int:
        if sink.file.tell() > 1_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(sink, chunk)

    monkeypatch.setattr(hub_download._Sink, "write", full)
    with pytest.raises(SourceError, match="No space left on device") as caught:
        fetch(hub, tmp_path / "a")
    assert caught.value.code == "MM424"
    monkeypatch.setattr(hub_download._Sink, "write", real)
    hub.log.clear()
    assert fetch(hub, tmp_path / "b") == needed()
    (entry,) = [entry for entry in hub.log if entry[:2] == ("GET", WEIGHTS)]
    assert entry[2] is not None


def test_progress_counts_bytes_and_ends_at_one(hub: Hub, tmp_path: Path) -> None:
    seen: list[float] = []
    source.download(hub.repo, FIRST, tmp_path, lambda _, amount: seen.append(as_amount(amount).fraction))
    assert len(seen) > 20
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_bytes_of_an_earlier_download_are_reported_as_skipped(hub: Hub, tmp_path: Path) -> None:
    file, content = source.list_files(hub.repo, FIRST)[WEIGHTS], hub.commits[FIRST][WEIGHTS]
    partial = hub_index.repo_folder(hub.repo) / "blobs" / f"{file.digest}.mmbuild.incomplete"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content[: len(content) // 2])
    seen: list[Amount] = []
    for name in ("resumed", "from the cache"):
        (tmp_path / name).mkdir()
        source.download(hub.repo, FIRST, tmp_path / name, lambda _, amount: seen.append(as_amount(amount)))
        assert (seen[-1].complete, seen[-1].unit) == (True, BYTES)
        if name == "resumed":
            assert seen[-1].skipped == len(content) // 2
            # Only work counts for the rate: it never exceeds what was received since the last report.
            work = [amount.done - amount.skipped for amount in seen]
            assert work == sorted(work)
    assert seen[-1].skipped == seen[-1].total


DOWNLOAD = """
import sys
from pathlib import Path
from huggingface_hub import constants
from mmbuild.models.sources.hub import download
constants.DOWNLOAD_CHUNK_SIZE = 50_000
Path("out").mkdir()
download(sys.argv[1], sys.argv[2], Path("out"), lambda *told: print(*told, flush=True))
"""


@pytest.mark.slow
def test_after_kill_9_only_the_missing_bytes_are_requested(hub: Hub, tmp_path: Path) -> None:
    hub.stall[WEIGHTS] = 1_000_000
    home, size = tmp_path / "home", len(hub.commits[FIRST][WEIGHTS])
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    command = [sys.executable, "-c", DOWNLOAD, hub.repo, FIRST]
    (tmp_path / "first").mkdir()
    with subprocess.Popen(
        command, cwd=tmp_path / "first", env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as first:
        assert first.stdout is not None
        arrived = 0
        # A line follows each chunk on disk; the last whole chunk before the stall is at 950,000 at least.
        while arrived < 900_000:
            assert first.stdout.readline(), "the download ended"
            arrived = sum(path.stat().st_size for path in home.rglob("*.incomplete"))
        os.killpg(first.pid, signal.SIGKILL)
    (partial,) = home.rglob("*.incomplete")
    kept = partial.stat().st_size
    hub.stall.clear()
    hub.log.clear()
    (tmp_path / "second").mkdir()
    subprocess.run(command, cwd=tmp_path / "second", env=environment, check=True, timeout=60)
    assert [entry for entry in hub.log if entry[:2] == ("GET", WEIGHTS)] == [
        ("GET", WEIGHTS, f"bytes={kept}-")
    ]
    assert 900_000 <= kept < size
    assert model_files(tmp_path / "second" / "out") == needed()


@pytest.fixture(params=["hub gone", "HF_HUB_OFFLINE"])
def cut_off(hub: Hub, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Takes the network away, in both ways that people meet."""

    def offline() -> None:
        if request.param == "hub gone":
            nowhere = "http://127.0.0.1:9"
            monkeypatch.setattr(constants, "ENDPOINT", nowhere)
            monkeypatch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}"
            )
            monkeypatch.setattr(hub_download, "_PAUSE", 0.0)
        else:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.log.clear()

    return offline


@pytest.mark.parametrize("filled_by", ["mmbuild", "snapshot_download", "files one by one"])
def test_a_filled_cache_is_enough_without_a_network(
    hub: Hub, tmp_path: Path, cut_off: Callable[[], None], filled_by: str
) -> None:
    if filled_by == "mmbuild":
        fetch(hub, tmp_path / "a")
    elif filled_by == "snapshot_download":
        huggingface_hub.snapshot_download(hub.repo, revision=FIRST, allow_patterns=[*needed()])
    else:
        for name in needed():
            huggingface_hub.hf_hub_download(hub.repo, name, revision=FIRST)
    cut_off()
    assert fetch(hub, tmp_path / "b") == needed()
    assert hub.log == []


def test_a_damaged_file_of_the_cache_is_not_used_without_a_network(
    hub: Hub, tmp_path: Path, cut_off: Callable[[], None]
) -> None:
    fetch(hub, tmp_path / "a")
    blob = max((tmp_path / "cache").rglob("blobs/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.unlink()
    blob.write_bytes(data)
    cut_off()
    with pytest.raises(SourceError) as caught:
        fetch(hub, tmp_path / "b")
    assert caught.value.code == "MM422"
    assert not (tmp_path / "b" / WEIGHTS).exists()


def test_a_cache_without_a_file_that_the_hub_listed_is_incomplete(
    hub: Hub, tmp_path: Path, cut_off: Callable[[], None]
) -> None:
    hub.fail["tokenizer_config.json"] = [418]
    with pytest.raises(SourceError):
        fetch(hub, tmp_path / "a")
    cut_off()
    with pytest.raises(SourceError) as caught:
        fetch(hub, tmp_path / "b")
    assert caught.value.code == "MM422"
    assert hub.repo in caught.value.message


def test_an_empty_cache_without_a_network(hub: Hub, tmp_path: Path, cut_off: Callable[[], None]) -> None:
    cut_off()
    with pytest.raises(SourceError) as caught:
        fetch(hub, tmp_path / "a")
    assert caught.value.code == "MM422"
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 9, "files": {}}'])
def test_a_remembered_listing_that_is_damaged_is_left_aside(
    hub: Hub, tmp_path: Path, cut_off: Callable[[], None], text: str
) -> None:
    fetch(hub, tmp_path / "a")
    (listing,) = (tmp_path / "cache").glob("*/mmbuild/*.json")
    listing.write_text(text)
    cut_off()
    assert fetch(hub, tmp_path / "b") == needed()
