"""Checks as text and as JSON."""

from __future__ import annotations

import json

from mmbuild.base.checks import Check, Group
from mmbuild.inspect.doctor.render import as_json, text

GROUPS = (
    Group("host", (Check("python", "ok", "3.11.7", ">=3.11"), Check("gpu", "ok", "none"))),
    Group("other", (Check("compiler", "fail", "no g++", "g++", "engines are compiled", "Install it"),)),
)


def test_text_aligns_names_and_gives_reasons_below() -> None:
    assert text(GROUPS) == (
        "host\n"
        "  ok       python    3.11.7 (>=3.11)\n"
        "  ok       gpu       none\n"
        "\n"
        "other\n"
        "  fail     compiler  no g++; required: g++\n"
        "                     why: engines are compiled\n"
        "                     hint: Install it\n"
    )


def test_text_with_both_labels_shows_both_values() -> None:
    assert text(GROUPS[:1], expected="needs", found="here").splitlines()[1] == (
        "  ok       python  needs >=3.11; here 3.11.7"
    )


def test_json_has_all_checks_and_an_overall_result() -> None:
    document = json.loads(as_json(GROUPS))
    assert document["ok"] is False
    assert document["groups"][1]["checks"] == [
        {
            "name": "compiler",
            "status": "fail",
            "found": "no g++",
            "wanted": "g++",
            "why": "engines are compiled",
            "way": "Install it",
        }
    ]
    assert json.loads(as_json(GROUPS[:1]))["ok"] is True
