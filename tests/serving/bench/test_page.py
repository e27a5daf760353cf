"""The page of a result: complete, self-contained, and safe with hostile content."""

import os
import re

from mmbuild._version import __version__
from mmbuild.serving.bench.page import page
from mmbuild.serving.bench.records import Failure
from mmbuild.serving.bench.workload import Workload
from support.html_page import Page
from support.measured import SERVER, answered, failed, result, run

HOSTILE = "<script>alert('x')</script>\"'&<img src=http://evil.example/a onerror=alert(1)>\x00]]>"


def test_the_page_is_well_formed_and_shows_the_results():
    seen = Page(page(result()))
    text = " ".join(seen.text)
    for words in (
        "Benchmark: shapes",
        "localhost:8000",
        "how many ?",
        "1 at once",
        "4 per second",
        "HTTP 429",
        "2026-11",
    ):
        assert words in text
    assert seen.seen.count("svg") == 3


def test_the_page_says_what_was_measured_where_and_whether_all_were_answered():
    engine = {
        "kind": "engine",
        "name": "llava-int4",
        "recipe": "llava-int4",
        "path": "build/llava-int4",
        "versions": {"torch": "2.13.0"},
        "bytes": {"weights": 2_000_000, "packages": 3_000_000},
    }
    shown = " ".join(
        " ".join(Page(page(result(run("clients", 1, [answered()]), target=engine))).text).split()
    )
    for fact in (
        "all 1 requests were answered",
        "recipe llava-int4 ",
        "size weights 2.0 MB, compiled packages 3.0 MB",
        f"versions torch 2.13.0, mmbuild {__version__}",
        f"measured on {os.uname().nodename}: ",
    ):
        assert fact in shown
    some = Page(page(result(run("clients", 1, [answered(), failed()]))))
    assert "1 of 2 requests failed" in some.text


def test_the_page_fetches_nothing_and_runs_nothing():
    seen = Page(page(result()))
    assert not {"script", "link", "img", "iframe"} & set(seen.seen)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in page(result())


def test_text_of_others_is_escaped():
    workload = Workload((HOSTILE,), 8, (HOSTILE,), 4, False, 0)
    target = {**SERVER, "name": HOSTILE, "model": HOSTILE, "version": HOSTILE}
    failure = Failure("http", 500, HOSTILE[:64], HOSTILE)
    seen = Page(
        page(result(run("clients", 1, [answered(), failed(failure)]), target=target, workload=workload))
    )
    assert not {"script", "img"} & set(seen.seen)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert sum("alert('x')" in text for text in seen.text) >= 4
    assert not any("\x00" in text for text in seen.text)


def test_a_result_without_answers_has_a_table():
    seen = Page(page(result(run("rate", 1, [failed()]))))
    assert "svg" not in seen.seen
    assert "1 per second" in " ".join(seen.text)


def test_the_same_result_gives_the_same_bytes():
    assert page(result()) == page(result())


def test_labels_of_narrow_screens_repeat_the_titles():
    titles = re.findall(r'data-title="([^"]+)"', page(result()))
    assert titles[:8] == titles[8:16]
    assert titles[5] == "first token, ms, p50 / p90 / p99"
