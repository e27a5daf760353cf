"""Calibration data of the hub: which file, which samples, what is fetched, and layouts that are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.core.steps.context import StepContext
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.calibration_data.hub_dataset import FILE, DataSet, parse, sample_file
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.models.errors import SourceError
from mmbuild.steps import calibration_data
from support.errors import refused
from support.servers.data_set_hub import FIRST, REPO, image_folder, lines, picture, serving
from support.servers.hub import Hub

Start = Callable[[dict[str, bytes]], Hub]
word = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """``start(files)``: a hub with a data set of these files."""
    running = []

    def begin(files: dict[str, bytes]) -> Hub:
        manager = serving(files, tmp_path / "cache", monkeypatch)
        running.append(manager)
        return manager.__enter__()

    yield begin
    for manager in running:
        manager.__exit__(None, None, None)


def fetch(out: Path, **params: object) -> list[data.Sample]:
    """What the step makes of the data set; its samples, read as the quantize step reads them."""
    out.mkdir()
    request = {
        "repo": REPO,
        "commit": FIRST,
        "file": None,
        "samples": 4,
        "seed": 0,
        "text_only": False,
        **params,
    }
    calibration_data.run(StepContext(params=request, out=out))
    return data.load(out / FILE, int(str(request["samples"])), int(str(request["seed"])), text_only=True)


@given(owner=word, name=word, path=st.lists(word, max_size=3))
def test_a_data_set_is_named_by_its_address_and_perhaps_a_file(
    owner: str, name: str, path: list[str]
) -> None:
    address = f"hf://datasets/{owner}/{name}"
    assert parse(address) == DataSet(f"datasets/{owner}/{name}")
    file = "/".join([*path, "data.jsonl"])
    assert parse(f"{address}/{file}") == DataSet(f"datasets/{owner}/{name}", file)


@pytest.mark.parametrize(
    "named",
    ["hf://a/b", "hf://datasets/a", "hf://datasets/a/b/c.parquet", "hf://datasets/a/b/../x.jsonl", "hf://", "hf://datasets/a/b@main"],
)  # fmt: skip
def test_other_names_are_refused_with_the_form(named: str) -> None:
    error = refused(CalibrationError, "MM173", parse, named)
    assert "hf://datasets/owner/name" in (error.hint or "")


@pytest.mark.parametrize("home", ["", "train/", "a/b/"])
def test_drawn_samples_of_an_image_folder_arrive_with_their_pictures_and_no_others(
    start: Start, tmp_path: Path, home: str
) -> None:
    hub = start(image_folder(9, home))
    samples = fetch(tmp_path / "out", seed=3)
    assert len(samples) == 4
    for sample in samples:
        assert sample.image is not None
        number = int(sample.image.stem)
        assert sample.image.read_bytes() == picture(number)
        assert (sample.prompt, sample.answer) == (data.CAPTION_PROMPT, f"picture {number}")
    fetched = {name for name in hub.fetch_counts() if name.endswith(".png")}
    assert len(fetched) == 4
    assert {path.name for path in (tmp_path / "out").rglob("*.png")} == {Path(name).name for name in fetched}


def test_a_seed_draws_the_same_samples_as_it_does_of_a_local_file(start: Start, tmp_path: Path) -> None:
    files = image_folder(12, "")
    start(files)
    local = tmp_path / "local"
    for name, content in files.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    here = data.load(local / "metadata.jsonl", 5, 7, text_only=False)
    there = fetch(tmp_path / "out", samples=5, seed=7)
    assert [(sample.answer, sample.image.name) for sample in there if sample.image] == [
        (sample.answer, sample.image.name) for sample in here if sample.image
    ]


def test_samples_in_our_own_form_and_a_file_that_is_named(start: Start, tmp_path: Path) -> None:
    rows = [{"image": f"p/{n}.png", "prompt": f"{n}?", "answer": "yes"} for n in range(4)]
    start(
        {
            "ours/data.jsonl": lines(rows),
            "other.jsonl": lines(rows),
            **{f"ours/p/{n}.png": picture(n) for n in range(4)},
        }
    )
    samples = fetch(tmp_path / "out", file="ours/data.jsonl")
    assert [sample.prompt for sample in samples] == ["0?", "1?", "2?", "3?"]


def test_what_was_fetched_before_is_not_fetched_again(start: Start, tmp_path: Path) -> None:
    hub = start(image_folder(6))
    fetch(tmp_path / "one")
    before = hub.fetch_counts()
    fetch(tmp_path / "two")
    assert hub.fetch_counts() == before
    written = [(tmp_path / name / FILE).read_bytes() for name in ("one", "two")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("names", "problem", "hint"),
    [
        (["data/train-00000.parquet", "README.md"], "Parquet tables", "save its images"),
        (["pictures.py"], "a loading script", "save its images"),
        (["train.tar"], "tar archives", "save its images"),
        (["README.md"], "has no JSONL file", "save its images"),
        (["../outside.jsonl", "/tmp/x.jsonl"], "has no JSONL file", "save its images"),
        (["a.jsonl", "b.jsonl"], "2 JSONL files", f"hf://{REPO}/a.jsonl, hf://{REPO}/b.jsonl"),
        (
            ["a/metadata.jsonl", "b/metadata.jsonl", "c.jsonl"],
            "2 JSONL files",
            f"hf://{REPO}/a/metadata.jsonl",
        ),
    ],
)
def test_other_layouts_are_rejected_by_name_with_a_hint(names: list[str], problem: str, hint: str) -> None:
    error = refused(CalibrationError, "MM464", sample_file, DataSet(REPO), names)
    assert problem in error.message
    assert hint in (error.hint or "")


def test_one_metadata_file_is_meant_where_other_files_are_there() -> None:
    assert sample_file(DataSet(REPO), ["x.jsonl", "train/metadata.jsonl"]) == "train/metadata.jsonl"
    error = refused(CalibrationError, "MM464", sample_file, DataSet(REPO, "y.jsonl"), ["x.jsonl"])
    assert "no file `y.jsonl`" in error.message


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"file_name": "gone.png"}, "MM167"),
        ({"file_name": "../../outside.png"}, "MM167"),
        ({"file_name": "../beside.png"}, "MM167"),
        ({"file_name": "/etc/hostname"}, "MM167"),
        ({"prompt": "words alone"}, "MM164"),
        ({"prompt": 7}, "MM166"),
    ],
)
def test_invalid_lines_are_reported_with_the_address_of_their_file(
    start: Start, tmp_path: Path, row: dict[str, object], code: str
) -> None:
    start({"train/metadata.jsonl": lines([row]), "beside.png": picture(1)})
    error = refused(CalibrationError, code, fetch, tmp_path / "out", samples=1)
    assert f"hf://{REPO}/train/metadata.jsonl:1" in error.message
    assert not any((tmp_path / "out").iterdir())


def test_too_few_samples_and_changed_files_are_refused(start: Start, tmp_path: Path) -> None:
    hub = start(image_folder(3))
    refused(CalibrationError, "MM165", fetch, tmp_path / "few", samples=4)
    hub.sent["train/metadata.jsonl"] = hub.commits[FIRST]["train/metadata.jsonl"][::-1]
    hub.sent["train/images/0.png"] = picture(99)[:-1] + b"x"
    refused(SourceError, "MM423", fetch, tmp_path / "changed", samples=3)


def test_a_missing_data_set_is_reported_as_a_data_set(start: Start, tmp_path: Path) -> None:
    start(image_folder(3))
    error = refused(SourceError, "MM420", fetch, tmp_path / "out", repo="datasets/shapes/none")
    assert "no such data set on the hub" in error.message
    error = refused(SourceError, "MM422", fetch, tmp_path / "unknown", commit=None, revision="main")
    assert "calibration.revision" in (error.hint or "")
