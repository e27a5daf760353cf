"""The page of a report: complete, self-contained, and safe with hostile content."""

import base64
import io
import re

import pytest
from PIL import Image

from mmbuild.evaluation import thumbnails
from mmbuild.evaluation.bounds import bounds
from mmbuild.evaluation.html import page
from mmbuild.steps.verify import report_of
from support import reports
from support.html_page import Page
from support.reports import question

HOSTILE = "<script>alert('x')</script>\"'&<img src=http://evil.example/a onerror=alert(1)>\x00]]>"


def shown(measures, weights="model", small=None, **stated):
    report = report_of(measures, bounds("int4", stated), weights)
    return page(report, small or {})


def test_the_page_is_well_formed_and_shows_the_results():
    text = shown(reports.measures([0.01, 0.5, 0.3]), max_kl=0.1)
    seen = Page(text)
    message = " ".join(seen.text)
    for words in (
        "max_kl",
        "0.27",
        "failed",
        "passed",
        "3 questions",
        "transformers 5.17.0",
        "float32, W4A16",
    ):
        assert words in message
    assert seen.seen.count("svg") == 2


def test_the_page_fetches_nothing_and_runs_nothing():
    image = Image.new("RGB", (300, 200), (250, 10, 10))
    seen = Page(shown(reports.measures([0.1, 0.2]), small={1: thumbnails.small(image)}))
    assert "script" not in seen.seen
    assert "link" not in seen.seen
    places = [value for name, value in seen.attributes if name in ("src", "href", "data", "srcset")]
    assert places
    assert all(place.startswith("data:image/png;base64,") for place in places)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]


def test_answers_and_prompts_are_escaped():
    hostile = question(0.1, prompt=HOSTILE, answers=(HOSTILE, HOSTILE + "!"))
    seen = Page(shown(reports.of([hostile, hostile])))
    assert "script" not in seen.seen
    assert "img" not in seen.seen
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert sum("alert('x')" in text for text in seen.text) >= 3
    assert not any("\x00" in text for text in seen.text)


def test_a_picture_is_shown_once_small_with_both_answers():
    image = Image.new("RGB", (600, 300), (1, 2, 3))
    requested = [question(0.1, answers=("a cat", "a dog")), question(0.1, prompt=None)]
    seen = Page(shown(reports.of(requested), small={1: thumbnails.small(image)}))
    (source,) = [value for name, value in seen.attributes if name == "src"]
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as small:
        assert small.size == (thumbnails.EDGE, thumbnails.EDGE // 2)
        assert small.getpixel((5, 5)) == (1, 2, 3)
    assert {"a cat", "a dog"} <= set(seen.text)


@pytest.mark.parametrize(("weights", "expected"), [("dummy", True), ("model", False), (None, False)])
def test_the_page_warns_about_random_weights(weights, expected):
    assert ("quality means nothing" in shown(reports.measures([0.1]), weights)) is expected


def test_the_same_report_gives_the_same_bytes():
    measures = reports.measures([0.1, 0.2])
    assert shown(measures) == shown(measures)


@pytest.mark.parametrize("kls", [[0.0], [0.0, 0.0], [1e-9, 2e-9], [1e6], [0.2] * 300])
def test_plots_stay_within_their_frame(kls):
    text = shown(reports.measures(kls), max_kl=0.05)
    numbers = [float(value) for value in re.findall(r'(?:c?[xy][12]?|width|height)="(-?[\d.]+)"', text)]
    assert all(0 <= value <= 640 for value in numbers)
    assert "nan" not in text.lower().replace("nanos", "")


def test_digests_depend_on_the_content_of_pictures_alone(tmp_path):
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.bmp")
    assert (
        thumbnails.digest(tmp_path / "a.png")
        == thumbnails.digest(tmp_path / "a.bmp")
        == thumbnails.digest(image)
    )
    assert thumbnails.digest(image.rotate(180)) != thumbnails.digest(image)
