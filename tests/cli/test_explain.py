"""``mmbuild explain``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mmbuild.base.codes import codes
from mmbuild.base.errors import UsageError
from mmbuild.cli.explain import command


def test_entry_has_symptom_cause_and_cure() -> None:
    result = CliRunner().invoke(command, ["mm103"])
    assert result.exit_code == 0
    first, _, *rest = result.stdout.splitlines()
    assert first == "MM103: Unknown key"
    assert [line.split(":")[0] for line in rest if not line.startswith(" ")] == ["symptom", "cause", "cure"]


def test_without_a_code_all_codes_are_listed() -> None:
    lines = CliRunner().invoke(command, []).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(codes())


def test_unknown_code_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(command, ["MM10"], catch_exceptions=False)
    assert caught.value.hint is not None
    assert "MM10" in caught.value.hint


def test_a_number_that_no_code_has_suggests_none_with_another_number() -> None:
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(command, ["MM999"], catch_exceptions=False)
    assert caught.value.hint == "`mmbuild explain` lists all codes"


def test_json_has_one_entry_or_all() -> None:
    one = json.loads(CliRunner().invoke(command, ["MM103", "--json"]).stdout)
    assert set(one) == {"code", "title", "symptom", "cause", "cure"}
    assert one["code"] == "MM103"
    every = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    assert [entry["code"] for entry in every] == list(codes())
    assert one in every
