"""Questions: pictures and prompts."""

import io
from dataclasses import replace
from itertools import islice

import pytest
from PIL import Image

from mmbuild.models.images import PictureError
from mmbuild.serving.bench.workload import Question, Workload, next_questions, questions
from support.errors import refused

DRAWN = Workload((), 32, ("a", "b"), 8, False, 1)


def test_drawn_pictures_differ_and_depend_on_the_seed():
    first = list(islice(questions(DRAWN), 20))
    assert first == list(islice(questions(DRAWN), 20))
    assert len({question.picture for question in first}) == 20
    assert [question.prompt for question in first[:4]] == ["a", "b", "a", "b"]
    assert first[0] != next(questions(replace(DRAWN, seed=2)))
    assert Image.open(io.BytesIO(first[0].picture)).size == (32, 32)
    assert first[0].mime_type == "image/png"


def test_each_run_takes_new_questions():
    source = questions(DRAWN)
    runs = [next_questions(source, count) for count in (3, 5, None)]
    assert list(map(len, runs)) == [3, 5, 256]
    assert len({question.picture for run in runs for question in run}) == 264


def test_long_runs_ask_again():
    assert len(next_questions(iter([Question(b"", None)] * 5_000), 4_000)) == 1_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_files_are_sent_as_they_are(tmp_path, kind):
    path = tmp_path / "picture"
    Image.new("RGB", (8, 6), (1, 2, 3)).save(path, kind)
    first, second = islice(questions(replace(DRAWN, images=(str(path),), prompts=())), 2)
    assert first.picture == path.read_bytes()
    assert first.mime_type == f"image/{kind.lower()}"
    assert first.prompt is None
    assert second is not first
    assert second == first


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    refused(PictureError, "MM517", questions, replace(DRAWN, images=(str(tmp_path / "a.png"),)))
    refused(PictureError, "MM517", questions, replace(DRAWN, images=(str(tmp_path / "missing.png"),)))
