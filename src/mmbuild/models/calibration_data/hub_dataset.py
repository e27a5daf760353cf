"""Calibration data that lie in a data set on the Hugging Face hub: a JSONL file and pictures, taken at one commit.

Only what the recipe draws is fetched: the file and the pictures of its samples.
"""

from __future__ import annotations

import json
import posixpath
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.progress import Progress
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.calibration_data.samples import CalibrationError, Sample
from mmbuild.models.sources import hub
from mmbuild.models.sources.hub_index import DATA_SETS, Listing

SCHEME = "hf://"
FILE = "data.jsonl"
"""What :func:`fetch` leaves, with the pictures beside it or below."""
_FORM = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:/(\S+\.jsonl))?")
# The imagefolder form's own name, which is meant where others are there too.
_METADATA = "metadata.jsonl"
_SHOWN = 4
_OTHER_LAYOUTS = {
    ".parquet": "Parquet tables",
    ".arrow": "Arrow tables",
    ".py": "a loading script",
    ".tar": "tar archives",
    ".zip": "zip archives",
    ".csv": "CSV tables",
    ".json": "JSON files",
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set as a recipe names it.

    Attributes:
        repo: ``datasets/owner/name``.
        file: Path of the JSONL file in it; None: the one that is there.
    """

    repo: str
    file: str | None = None


def is_data_set(named: str) -> bool:
    """Whether ``calibration.data`` names something on the hub."""
    return named.startswith(SCHEME)


def parse(named: str) -> DataSet:
    """``hf://datasets/owner/name``, or the same with the path of a JSONL file in it.

    Raises:
        CalibrationError: MM173, it is neither.
    """
    match = _FORM.fullmatch(named)
    if match is None or ".." in (match[2] or "").split("/"):
        raise CalibrationError(
            f"calibration data `{named}` names no data set of the hub",
            code="MM173",
            hint="Write hf://datasets/owner/name, or hf://datasets/owner/name/path/to/file.jsonl",
        )
    return DataSet(DATA_SETS + match[1], match[2])


def sample_file(data_set: DataSet, names: Collection[str]) -> str:
    """The JSONL file that samples are read from.

    Args:
        data_set: What the recipe names.
        names: Files of the data set.

    Raises:
        CalibrationError: MM464, it has none, several, or not the one that is named.
    """
    found = sorted(name for name in names if name.endswith(".jsonl") and _is_inside(name))
    if data_set.file is not None:
        if data_set.file in found:
            return data_set.file
        raise _other_layout(data_set, f"has no file `{data_set.file}`", found)
    metadata = [name for name in found if posixpath.basename(name) == _METADATA]
    for candidates in (metadata, found):
        if len(candidates) == 1:
            return candidates[0]
    if found:
        raise _other_layout(data_set, f"has {len(metadata or found)} JSONL files", metadata or found)
    endings = Counter(posixpath.splitext(name)[1] for name in names)
    other = next(
        (f"holds {reported}" for ending, reported in _OTHER_LAYOUTS.items() if endings[ending]), "holds none"
    )
    raise _other_layout(data_set, f"has no JSONL file; it {other}", ())


def _is_inside(name: str) -> bool:
    """Whether a path of the hub's stays below where it is put."""
    return posixpath.normpath(name) == name and not name.startswith(("/", "../"))


def _other_layout(data_set: DataSet, what: str, there: Sequence[str]) -> CalibrationError:
    named = ", ".join(f"hf://{data_set.repo}/{name}" for name in there[:_SHOWN])
    return CalibrationError(
        f"data set hf://{data_set.repo} {what}",
        code="MM464",
        hint=f"Name one: {named}"
        if there
        else "Write its pictures beside a JSONL file of {image, prompt, answer?} and name that file",
    )


def fetch(
    data_set: DataSet,
    commit: str,
    out: Path,
    count: int,
    seed: int,
    *,
    text_only: bool,
    progress: Progress,
) -> None:
    """Fill ``out`` with :data:`FILE`, which holds the samples that are drawn, and their pictures.

    Args:
        data_set: Which data set.
        commit: Of it, 40 hexadecimal digits.
        out: An existing, empty directory.
        count: How many samples.
        seed: Of the choice.
        text_only: Accept samples without a picture.
        progress: Told the file and the share done.

    Raises:
        CalibrationError: MM164 to MM167 as of a local file, MM464.
        SourceError: The hub cannot be asked, refuses, or sends something else.
    """
    listing = hub.list_files(data_set.repo, commit)
    name = sample_file(data_set, listing)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        hub.fetch_files(data_set.repo, commit, listing, [name], Path(scratch), progress)
        shown = f"hf://{data_set.repo}/{name}"
        samples = data.parse_samples(Path(scratch, name), shown)
        chosen = data.pick(samples, shown, count, seed, text_only=text_only)
    places = {sample.line: _place(sample, posixpath.dirname(name), listing, shown) for sample in chosen}
    pictures = sorted({place for place in places.values() if place is not None})
    hub.fetch_files(data_set.repo, commit, listing, pictures, out, progress)
    lines = [
        {
            "image": places[sample.line],
            "prompt": sample.prompt,
            "answer": sample.answer,
        }
        for sample in chosen
    ]
    text = "".join(json.dumps({key: value for key, value in line.items() if value}) + "\n" for line in lines)
    (out / FILE).write_text(text, encoding="utf-8")


def _place(sample: Sample, home: str, listing: Listing, shown: str) -> str | None:
    """Path of a sample's picture in the data set."""
    if sample.image is None:
        return None
    place = posixpath.normpath(posixpath.join(home, str(sample.image)))
    inside = not home or place.startswith(f"{home}/")
    if not _is_inside(place) or not inside or place not in listing:
        raise CalibrationError(
            f"calibration data {shown}:{sample.line}: there is no image `{sample.image}` beside it",
            code="MM167",
            hint="Take another data set, or a copy of this one whose lines name their pictures",
        )
    return place
