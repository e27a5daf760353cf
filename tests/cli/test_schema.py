"""``mmbuild schema``."""

from __future__ import annotations

import json

from click.testing import CliRunner

from mmbuild.cli.schema import command


def test_it_prints_the_json_schema() -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert schema["title"] == "mmbuild recipe"
    assert set(schema["$defs"]["Algorithm"]["enum"]) == {
        "none",
        "int8",
        "int4",
        "int4_awq",
        "smoothquant",
        "fp8",
    }


def test_help_shows_an_example() -> None:
    assert "mmbuild schema >" in CliRunner().invoke(command, ["--help"]).stdout
