"""Calibration data: what a line may say, which lines are taken, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmbuild.models.calibration_data import samples
from mmbuild.models.calibration_data.samples import CalibrationError, Sample


def write(root: Path, lines: Sequence[Mapping[str, Any] | str]) -> Path:
    root.mkdir(exist_ok=True)
    path = root / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def pictures(root: Path, count: int) -> list[dict[str, Any]]:
    root.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / f"{number}.png")
    return [{"image": f"{number}.png", "prompt": f"what is {number}?"} for number in range(count)]


def refused(path: Path, count: int = 1, *, text_only: bool = False) -> CalibrationError:
    with pytest.raises(CalibrationError) as caught:
        samples.load(path, count, 0, text_only=text_only)
    return caught.value


def test_lines_become_samples_with_absolute_paths(tmp_path: Path) -> None:
    lines = [*pictures(tmp_path, 2), "", {"image": "1.png", "prompt": "and?", "answer": "one"}]
    assert samples.read(write(tmp_path, lines)) == [
        Sample(1, tmp_path / "0.png", "what is 0?"),
        Sample(2, tmp_path / "1.png", "what is 1?"),
        Sample(4, tmp_path / "1.png", "and?", "one"),
    ]


def test_lines_of_an_image_folder_are_samples_whatever_else_they_say(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    lines = [
        {"file_name": "0.png", "text": "a cat", "bbox": [1, 2], "split": "train"},
        {"file_name": "1.png", "prompt": "which?", "answer": "this", "text": "not asked"},
        {"file_name": "2.png"},
    ]
    assert samples.read(write(tmp_path, lines)) == [
        Sample(1, tmp_path / "0.png", samples.CAPTION_PROMPT, "a cat"),
        Sample(2, tmp_path / "1.png", "which?", "this"),
        Sample(3, tmp_path / "2.png", samples.CAPTION_PROMPT),
    ]
    error = refused(write(tmp_path, [{"file_name": "0.png", "text": ["a", "list"]}]))
    assert (error.code, "`answer` is not a string" in error.message) == ("MM166", True)


def test_a_seed_chooses_the_same_samples_each_time_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, pictures(tmp_path, 20))
    seed = random.randrange(1 << 30)
    chosen = samples.load(path, 7, seed, text_only=False)
    assert chosen == samples.load(path, 7, seed, text_only=False)
    assert [sample.line for sample in chosen] == sorted({sample.line for sample in chosen})
    assert len(chosen) == 7
    others = {tuple(samples.load(path, 7, other, text_only=False)) for other in range(5)}
    assert len(others) > 1


def test_all_samples_are_used_if_all_are_requested(tmp_path: Path) -> None:
    path = write(tmp_path, pictures(tmp_path, 5))
    assert [sample.line for sample in samples.load(path, 5, 3, text_only=False)] == [1, 2, 3, 4, 5]


def test_text_alone_is_refused_unless_the_recipe_allows_it(tmp_path: Path) -> None:
    path = write(tmp_path, [*pictures(tmp_path, 1), {"prompt": "what is seven times six?"}])
    error = refused(path)
    assert (error.code, f"{path}:2 has no image" in error.message) == ("MM164", True)
    assert len(samples.load(path, 2, 0, text_only=True)) == 2


def test_too_few_samples_are_reported_with_both_numbers(tmp_path: Path) -> None:
    error = refused(write(tmp_path, pictures(tmp_path, 3)), count=4)
    assert error.code == "MM165"
    assert "3 samples, but 4" in error.message


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "the line is not JSON"),
        ("[1]", "a sample must be a JSON object"),
        ('{"prompt": "a", "picture": "a.png"}', "unknown key `picture`"),
        ('{"prompt": 7}', "`prompt` is not a string"),
        ('{"image": "0.png"}', "`prompt` is missing"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = write(tmp_path, [*pictures(tmp_path, 1), line])
    error = refused(path)
    assert error.code == "MM166"
    assert f"{path}:2: {told}" in error.message


def test_a_missing_or_binary_file_is_reported(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.jsonl").code == "MM166"
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    assert refused(binary).code == "MM166"


def test_a_missing_picture_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, [*pictures(tmp_path, 1), {"image": "gone.png", "prompt": "?"}])
    error = refused(path)
    assert (error.code, f"{path}:2: there is no image `gone.png`" in error.message) == ("MM167", True)


@pytest.mark.parametrize("how", ["absolute", "upwards", "link"])
def test_pictures_outside_the_data_are_not_read(tmp_path: Path, how: str) -> None:
    pictures(tmp_path, 1)
    home = tmp_path / "data"
    home.mkdir()
    (home / "link.png").symlink_to(tmp_path / "0.png")
    name = {"absolute": str(tmp_path / "0.png"), "upwards": "../0.png", "link": "link.png"}[how]
    error = refused(write(home, [{"image": name, "prompt": "?"}]))
    assert (error.code, "outside" in error.message) == ("MM167", True)
