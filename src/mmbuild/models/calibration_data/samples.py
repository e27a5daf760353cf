"""Calibration data: a JSONL file of ``{image, prompt, answer?}`` with its images next to it.

Lines in the ``imagefolder`` format of Hugging Face data sets are accepted too: ``{file_name, text?}`` and any other
columns (huggingface.co/docs/datasets, "ImageFolder"). Their text is a caption, which answers :data:`CAPTION_PROMPT`
unless the line has its own prompt.

The file is read during validation (so nothing here imports torch), during planning, and by the step: the same file
and seed always select the same samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import fits
from mmbuild.base.files import FileRefusedError, read_lines
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import CALIBRATION_LINE, DATA_BYTES, DATA_LINES
from mmbuild.base.near_paths import near_name

DEFAULT_SAMPLES = 32
CAPTION_PROMPT = "Describe the picture."
_KEYS = ("image", "prompt", "answer")
_FOLDER_KEYS = {"image": ("file_name",), "prompt": ("prompt",), "answer": ("answer", "text")}


class CalibrationError(MmbuildError):
    """Calibration data is unusable, or calibration failed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A line of the file.

    Attributes:
        line: Line number, from 1.
        image: Absolute path of the image (from :func:`parse_samples`: as in the line); None if there is none.
        prompt: The question.
        answer: The expected answer, which is appended to the prompt; None: only the prompt.
    """

    line: int
    image: Path | None
    prompt: str
    answer: str | None = None


def read(path: Path) -> list[Sample]:
    """Read all samples of a file; blank lines are skipped.

    Raises:
        CalibrationError: As :func:`parse_samples`; MM167, an image is missing or outside the file's directory.
    """
    samples = parse_samples(path)
    return [
        sample
        if sample.image is None
        else replace(sample, image=_image(path, sample.line, str(sample.image)))
        for sample in samples
    ]


def parse_samples(path: Path, shown: str | None = None) -> list[Sample]:
    """Parse the lines of a file, without checking that the images exist.

    Args:
        path: JSONL file.
        shown: Name of the file in messages; default: its path.

    Raises:
        CalibrationError: MM166, the file cannot be read, or a line is not a sample.
    """
    shown = shown or str(path)
    try:
        lines = read_lines(path, CALIBRATION_LINE, DATA_LINES, DATA_BYTES)
        return [_sample(shown, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, FileRefusedError) as error:
        problem = getattr(error, "problem", "")
        reason = f"it {problem}" if problem else getattr(error, "strerror", None) or str(error)
        near = near_name(path) if isinstance(error, FileNotFoundError) else None
        raise CalibrationError(
            f"cannot read calibration data `{shown}`: {reason}",
            code="MM166",
            hint=f"did you mean `{near}`?"
            if near
            else "name a JSONL file with one {image, prompt, answer} per line",
        ) from error


def _sample(path: str, number: int, line: bytes) -> Sample:
    try:
        content: Any = parse_json(line, CALIBRATION_LINE)
    except JsonProblemError as error:
        raise _invalid_line(path, number, f"the line {error}") from None
    if not isinstance(content, dict):
        raise _invalid_line(path, number, "a sample must be a JSON object")
    if "file_name" in content:
        content = _from_folder(content)
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise _invalid_line(path, number, f"unknown key `{unknown[0]}`; the keys are {', '.join(_KEYS)}")
    wrong = [key for key in _KEYS if not isinstance(content.get(key), (str, type(None)))]
    if wrong:
        raise _invalid_line(path, number, f"`{wrong[0]}` is not a string")
    if not content.get("prompt"):
        raise _invalid_line(path, number, "`prompt` is missing")
    image = Path(content["image"]) if content.get("image") else None
    if image is not None and not fits(content["image"]):
        raise _invalid_line(path, number, "`image` is not a usable path")
    return Sample(number, image, content["prompt"], content.get("answer") or None)


def _from_folder(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a line in imagefolder format; drops other columns."""
    taken = {
        key: next((content[name] for name in names if content.get(name) is not None), None)
        for key, names in _FOLDER_KEYS.items()
    }
    return taken if taken["prompt"] is not None else {**taken, "prompt": CAPTION_PROMPT}


def _invalid_line(path: str, number: int, problem: str) -> CalibrationError:
    return CalibrationError(
        f"calibration data {path}:{number}: {problem}",
        code="MM166",
        hint='each line must be like {"image": "pictures/1.png", "prompt": "...", "answer": "..."}',
    )


def _image(path: Path, number: int, name: str) -> Path:
    home = path.parent.resolve()
    image = (home / name).resolve()
    if not image.is_relative_to(home):
        raise CalibrationError(
            f"calibration data {path}:{number}: image `{name}` is outside {home}",
            code="MM167",
            hint="put images in the directory of the JSONL file or below it, and name them relative to it",
        )
    if not image.is_file():
        raise CalibrationError(
            f"calibration data {path}:{number}: there is no image `{name}`",
            code="MM167",
            hint=f"put it below {home}, or remove the line",
        )
    return image


def choose(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Select ``count`` samples at random by ``seed``, in the order of the file."""
    drawn = random.Random(seed).sample(range(len(samples)), count)
    return [samples[index] for index in sorted(drawn)]


def load(path: Path, count: int, seed: int, *, text_only: bool) -> list[Sample]:
    """Read and select the samples for a recipe.

    Args:
        path: JSONL file.
        count: Number of samples.
        seed: Seed for selecting them.
        text_only: Accept lines without an image.

    Raises:
        CalibrationError: As :func:`read` and :func:`pick`.
    """
    return pick(read(path), str(path), count, seed, text_only=text_only)


def pick(samples: Sequence[Sample], shown: str, count: int, seed: int, *, text_only: bool) -> list[Sample]:
    """Select ``count`` samples by ``seed``; ``shown`` is the file's name in messages.

    Raises:
        CalibrationError: MM165, there are fewer; MM164, a sample has no image and ``text_only`` is not set.
    """
    if len(samples) < count:
        raise CalibrationError(
            f"calibration data `{shown}` has {len(samples)} samples, but {count} are required",
            code="MM165",
            hint=f"set calibration.samples to {len(samples)}, or add samples"
            if samples
            else "add samples to the file",
        )
    missing = next((sample for sample in samples if sample.image is None), None)
    if missing is not None and not text_only:
        raise CalibrationError(
            f"calibration data {shown}:{missing.line} has no image; scales fitted on text alone do not suit visual "
            "features",
            code="MM164",
            hint="add an image to each line, or set calibration.text_only: true to calibrate without",
        )
    return choose(samples, count, seed)


def images(samples: Sequence[Sample]) -> Iterator[Path]:
    """The images of ``samples``, without duplicates."""
    yield from dict.fromkeys(sample.image for sample in samples if sample.image is not None)
