"""The page of a report: complete, self-contained, and safe with hostile content."""

import base64
import io
import re

import pytest
from PIL import Image

from mmbuild._version import __version__
from mmbuild.evaluation import thumbnails
from mmbuild.evaluation.bounds import bounds
from mmbuild.evaluation.html import page
from mmbuild.evaluation.plots import Plot
from mmbuild.steps.verify import report_of
from support import reports
from support.html_page import Page
from support.reports import question

HOSTILE = "<script>alert('x')</script>\"'&<img src=http://evil.example/a onerror=alert(1)>\x00]]>"


def shown(measures, weights="model", small=None, gates=None, **stated):
    report = report_of(measures, bounds("int4", stated) if gates is None else gates, weights)
    return page(report, small or {}, reports.ORIGIN)


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


def test_the_page_says_which_engine_was_checked_when_and_where():
    message = " ".join(" ".join(Page(shown(reports.measures([0.01]))).text).split())
    for fact in (
        "recipe llava-int4 ",
        "engine llava, backend torch, for cpu avx2",
        "limits 2 sequences at once, 128 tokens in, 40 out ",
        "size weights 2.0 MB, compiled packages 3.0 MB",
        f"versions torch 2.13.0, transformers 5.17.0, mmbuild {__version__}",
        "checked at 2026-01-02 03:04 UTC",
        "checked on host-1: Some CPU, 8 cores",
    ):
        assert fact in message


@pytest.mark.parametrize(
    ("measures", "stated", "expected"),
    [
        (reports.measures([0.01]), {"max_kl": {"bound": 0.1, "origin": "recipe"}}, "passed: 1 of 1 gates"),
        (
            reports.measures([0.5]),
            {"max_kl": {"bound": 0.1, "origin": "recipe"}},
            "refused: 1 of 1 gates failed (max_kl)",
        ),
        (reports.measures([0.01]), {}, "not checked: no gate was set"),
        (
            reports.measures([0.0], None),
            {},
            "passed: every answer has transformers' tokens, up to rounding",
        ),
        (
            reports.of([{**question(0.0, prefix=1), "tie": False}], None),
            {},
            "refused: an answer differs from transformers' by more than rounding",
        ),
    ],
)
def test_the_overall_verdict_is_at_the_top(measures, stated, expected):
    seen = Page(shown(measures, gates=stated))
    assert seen.text.index(expected) < seen.text.index("recipe")
    passed = not expected.startswith("refused")
    assert ("class", f"verdict {'good' if passed else 'bad'}") in seen.attributes


@pytest.mark.parametrize(
    ("bound", "drawn", "legend"),
    [
        (0.1, 2, "the gate: at most 0.1 over all answers"),
        (90.0, 0, "the gate, at most 90 over all answers, is far above this scale"),
        (None, 0, None),
    ],
)
def test_the_gate_is_a_dashed_line_where_the_legend_says_so(bound, drawn, legend):
    gates = {} if bound is None else {"max_kl": {"bound": bound, "origin": "recipe"}}
    seen = Page(shown(reports.measures([0.2, 0.02]), gates=gates))
    assert seen.attributes.count(("class", "bound")) == seen.attributes.count(("class", "key")) == drawn
    assert [text for text in seen.text if "the gate" in text] == ([] if legend is None else [legend] * 2)


def test_both_axes_are_labelled():
    seen = Page(shown(reports.measures([0.2, 0.02])))
    assert seen.text.count("mean KL, nats per token") == 2
    assert {"question", "token of the answer"} <= set(seen.text)


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
    assert all(0 <= value <= Plot.width for value in numbers)
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
