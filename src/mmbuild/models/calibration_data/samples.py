"""Calibration data: a JSONL file of ``{image, prompt, answer?}`` with its images beside it.

Lines of the ``imagefolder`` form of Hugging Face data sets are samples too: ``{file_name, text?}`` and any other
columns (huggingface.co/docs/datasets, "ImageFolder"). Their text is a caption, which answers :data:`CAPTION_PROMPT`
unless the line has a prompt of its own.

Read while a recipe is validated (so nothing here imports torch), while it is planned and by the step: the same file
and seed give the same samples each time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_lines
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import CALIBRATION_BYTES, CALIBRATION_LINE, CALIBRATION_LINES, NAME, PATH

DEFAULT_SAMPLES = 32
CAPTION_PROMPT = "Describe the picture."
_KEYS = ("image", "prompt", "answer")
_FOLDER_KEYS = {"image": ("file_name",), "prompt": ("prompt",), "answer": ("answer", "text")}


class CalibrationError(MmbuildError):
    """Data that a quantization cannot be fitted on, or a fit that came to nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A line of the file.

    Attributes:
        line: Its number, from 1.
        image: Absolute path of the picture, by :func:`parse_samples` as the line names it; None where the line has
            none.
        prompt: The question.
        answer: What the model should say, which it then sees too; None: the prompt alone.
    """

    line: int
    image: Path | None
    prompt: str
    answer: str | None = None


def read(path: Path) -> list[Sample]:
    """All samples of a file; blank lines are skipped.

    Raises:
        CalibrationError: As :func:`parse_samples`; MM167, a picture is missing or lies outside the file's directory.
    """
    found = parse_samples(path)
    return [
        sample
        if sample.image is None
        else replace(sample, image=_image(path, sample.line, str(sample.image)))
        for sample in found
    ]


def parse_samples(path: Path, shown: str | None = None) -> list[Sample]:
    """The lines of a file, whose pictures need not be there.

    Args:
        path: JSONL file.
        shown: What messages call it; left out, its path.

    Raises:
        CalibrationError: MM166, the file cannot be read or a line is no sample.
    """
    shown = shown or str(path)
    try:
        lines = read_lines(path, CALIBRATION_LINE, CALIBRATION_LINES, CALIBRATION_BYTES)
        return [_sample(shown, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, FileRefusedError) as error:
        problem = getattr(error, "problem", "")
        why = f"it {problem}" if problem else getattr(error, "strerror", None) or str(error)
        raise CalibrationError(
            f"calibration data `{shown}` cannot be read: {why}",
            code="MM166",
            hint="Name a JSONL file: one {image, prompt, answer} on each line",
        ) from error


def _sample(path: str, number: int, line: bytes) -> Sample:
    try:
        content: Any = parse_json(line, CALIBRATION_LINE)
    except JsonProblemError as error:
        raise _no_sample(path, number, f"the line {error}") from None
    if not isinstance(content, dict):
        raise _no_sample(path, number, "a sample is a JSON object")
    if "file_name" in content:
        content = _from_folder(content)
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise _no_sample(path, number, f"unknown key `{unknown[0]}`; the keys are {', '.join(_KEYS)}")
    wrong = [key for key in _KEYS if not isinstance(content.get(key), (str, type(None)))]
    if wrong:
        raise _no_sample(path, number, f"`{wrong[0]}` is no text")
    if not content.get("prompt"):
        raise _no_sample(path, number, "`prompt` is missing")
    image = Path(content["image"]) if content.get("image") else None
    if image is not None and not _is_path(content["image"]):
        raise _no_sample(path, number, "`image` is no usable path")
    return Sample(number, image, content["prompt"], content.get("answer") or None)


def _from_folder(content: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the imagefolder form in this one; columns that say nothing of a sample are left out."""
    taken = {
        key: next((content[name] for name in names if content.get(name) is not None), None)
        for key, names in _FOLDER_KEYS.items()
    }
    return taken if taken["prompt"] is not None else {**taken, "prompt": CAPTION_PROMPT}


def _no_sample(path: str, number: int, why: str) -> CalibrationError:
    return CalibrationError(
        f"calibration data {path}:{number}: {why}",
        code="MM166",
        hint='Each line reads {"image": "pictures/1.png", "prompt": "...", "answer": "..."}',
    )


def _is_path(name: str) -> bool:
    parts = os.fsencode(name).split(b"/")
    return "\0" not in name and max(map(len, parts)) <= NAME and len(name) <= PATH


def _image(path: Path, number: int, name: str) -> Path:
    home = path.parent.resolve()
    image = (home / name).resolve()
    if not image.is_relative_to(home):
        raise CalibrationError(
            f"calibration data {path}:{number}: image `{name}` lies outside {home}",
            code="MM167",
            hint="Images lie beside the JSONL file or below its directory, and are named relative to it",
        )
    if not image.is_file():
        raise CalibrationError(
            f"calibration data {path}:{number}: there is no image `{name}`",
            code="MM167",
            hint=f"Put it below {home}, or remove the line",
        )
    return image


def choose(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """``count`` of the samples, drawn by ``seed``, in the order of the file."""
    drawn = random.Random(seed).sample(range(len(samples)), count)
    return [samples[index] for index in sorted(drawn)]


def load(path: Path, count: int, seed: int, *, text_only: bool) -> list[Sample]:
    """The samples that a recipe asks for.

    Args:
        path: JSONL file.
        count: How many.
        seed: Of the choice.
        text_only: Accept lines without a picture.

    Raises:
        CalibrationError: As :func:`read` and :func:`pick`.
    """
    return pick(read(path), str(path), count, seed, text_only=text_only)


def pick(samples: Sequence[Sample], shown: str, count: int, seed: int, *, text_only: bool) -> list[Sample]:
    """``count`` of the samples of the file that messages call ``shown``, drawn by ``seed``.

    Raises:
        CalibrationError: MM165, there are fewer; MM164, one of them has no picture, and ``text_only`` is not said.
    """
    if len(samples) < count:
        raise CalibrationError(
            f"calibration data `{shown}` holds {len(samples)} samples, and {count} are asked for",
            code="MM165",
            hint=f"Set calibration.samples to {len(samples)}, or add samples"
            if samples
            else "Add samples to the file",
        )
    blind = next((sample for sample in samples if sample.image is None), None)
    if blind is not None and not text_only:
        raise CalibrationError(
            f"calibration data {shown}:{blind.line} has no image, and scales that are fitted on text alone "
            "do not fit what the LLM sees of pictures",
            code="MM164",
            hint="Give each line an image, or state calibration.text_only: true to calibrate without",
        )
    return choose(samples, count, seed)


def images(samples: Sequence[Sample]) -> Iterator[Path]:
    """The pictures of ``samples``, each once."""
    yield from dict.fromkeys(sample.image for sample in samples if sample.image is not None)
