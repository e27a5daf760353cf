"""Values in pages stay text, whatever they contain: in HTML, and in Markdown lines, cells and code spans."""

from __future__ import annotations

import re

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base import templates
from mmbuild.base.templates import code, render

HOSTILE = "<script>alert(1)</script>\x1b[31m \x00 a|b ![x](http://evil.example) `one` lone ` & <b>"


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("package")
    (directory / "templates").mkdir()
    for name, text in {
        "page.html.j2": '<p title="{{ value }}">{{ value }}</p>\n',
        "page.md.j2": "| {{ value }} | {{ value | code }} |\n",
        "filter.md.j2": "{{ value | twice }}\n",
    }.items():
        (directory / "templates" / name).write_text(text, "utf-8")
    monkeypatch.setattr(templates, "files", lambda _: directory)
    templates._environment.cache_clear()


def test_html_of_a_hostile_value_is_text() -> None:
    page = render("any", "page.html.j2", {"value": HOSTILE + "'\""})
    assert page.count("<") == 2
    assert "\x1b" not in page
    assert "\x00" not in page
    assert "&lt;script&gt;" in page


def test_markdown_of_a_hostile_value_stays_in_its_cell() -> None:
    page = render("any", "page.md.j2", {"value": HOSTILE})
    text, span = page.removeprefix("| ").removesuffix(" |\n").split(" | ")
    assert text.startswith("&lt;script>alert(1)&lt;/script>\\u001b\\[31m \\u0000 a\\|b !\\[x](http")
    assert text.endswith("`one` lone ' & &lt;b>")
    assert span[0] == span[-1] == "`"
    assert "`" not in span[1:-1]


@given(st.text())
def test_no_value_leaves_its_cell(value: str) -> None:
    page = render("any", "page.md.j2", {"value": value})
    assert len(re.findall(r"(?<!\\)\|", page)) == 3
    assert page.count("\n") == 1
    outside = re.sub(r"`[^`]*`", "", page)
    assert "`" not in outside
    assert "<" not in outside


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("any", "page.md.j2", {})


def test_a_filter_of_one_page_is_not_one_of_others() -> None:
    assert render("any", "filter.md.j2", {"value": "a"}, twice=lambda text: text * 2) == "aa\n"
    with pytest.raises(jinja2.TemplateError):
        render("any", "filter.md.j2", {"value": "a"})


def test_code_is_one_span() -> None:
    assert code("a`b") == "`a'b`"
