"""Calibration data from a data set on the Hugging Face hub: a JSONL file and images, at a fixed commit.

Only the file and the images of the selected samples are fetched.
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
"""The file that :func:`fetch` writes, with the images next to it or below."""
_FORM = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:/(\S+\.jsonl))?")
# File name of the imagefolder format; preferred over other JSONL files.
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
    """A data set named by a recipe.

    Attributes:
        repo: ``datasets/owner/name``.
        file: Path of the JSONL file in it; None: the only one.
    """

    repo: str
    file: str | None = None


def is_data_set(source: str) -> bool:
    """Whether ``calibration.data`` is a data set on the hub."""
    return source.startswith(SCHEME)


def parse(source: str) -> DataSet:
    """Parse ``hf://datasets/owner/name``, optionally followed by the path of a JSONL file.

    Raises:
        CalibrationError: MM173, ``source`` has another form.
    """
    match = _FORM.fullmatch(source)
    if match is None or ".." in (match[2] or "").split("/"):
        raise CalibrationError(
            f"calibration data `{source}` is not a data set on the hub",
            code="MM173",
            hint="write hf://datasets/owner/name, or hf://datasets/owner/name/path/to/file.jsonl",
        )
    return DataSet(DATA_SETS + match[1], match[2])


def sample_file(data_set: DataSet, names: Collection[str]) -> str:
    """The JSONL file to read samples from.

    Args:
        data_set: The data set from the recipe.
        names: Files of the data set.

    Raises:
        CalibrationError: MM464, there is none, there are several, or the requested one is missing.
    """
    present = sorted(name for name in names if name.endswith(".jsonl") and _is_inside(name))
    if data_set.file is not None:
        if data_set.file in present:
            return data_set.file
        raise _layout_error(data_set, f"has no file `{data_set.file}`", present)
    metadata = [name for name in present if posixpath.basename(name) == _METADATA]
    for candidates in (metadata, present):
        if len(candidates) == 1:
            return candidates[0]
    if present:
        raise _layout_error(data_set, f"has {len(metadata or present)} JSONL files", metadata or present)
    suffixes = Counter(posixpath.splitext(name)[1] for name in names)
    content = next((kind for suffix, kind in _OTHER_LAYOUTS.items() if suffixes[suffix]), None)
    raise _layout_error(data_set, "has no JSONL file" + (f", only {content}" if content else ""), ())


def _is_inside(name: str) -> bool:
    """Whether a path from the hub stays inside the target directory."""
    return posixpath.normpath(name) == name and not name.startswith(("/", "../"))


def _layout_error(data_set: DataSet, problem: str, present: Sequence[str]) -> CalibrationError:
    paths = ", ".join(f"hf://{data_set.repo}/{name}" for name in present[:_SHOWN])
    return CalibrationError(
        f"data set hf://{data_set.repo} {problem}",
        code="MM464",
        hint=f"name one of them: {paths}"
        if present
        else "save its images next to a JSONL file of {image, prompt, answer?} and name that file",
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
    """Write :data:`FILE` with the selected samples, and their images, to ``out``.

    Args:
        data_set: The data set.
        commit: Its commit, 40 hexadecimal digits.
        out: An existing, empty directory.
        count: Number of samples.
        seed: Seed for selecting the samples.
        text_only: Accept samples without an image.
        progress: Called with each file and the bytes of the samples, then of their images.

    Raises:
        CalibrationError: MM164 to MM167 as for a local file; MM464.
        SourceError: The hub is unreachable, denies access, or sends unexpected content.
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
    """Path of a sample's image in the data set."""
    if sample.image is None:
        return None
    place = posixpath.normpath(posixpath.join(home, str(sample.image)))
    inside = not home or place.startswith(f"{home}/")
    if not _is_inside(place) or not inside or place not in listing:
        raise CalibrationError(
            f"calibration data {shown}:{sample.line}: there is no image `{sample.image}` next to it",
            code="MM167",
            hint="use another data set, or a copy of this one with correct image paths",
        )
    return place
