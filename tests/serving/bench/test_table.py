"""Tables of results, on terminals of different widths and on pipes."""

import io
import sys

import pytest

from mmbuild.serving.bench.rows import row_of
from mmbuild.serving.bench.table import print_table
from support.measured import answered, result, run
from support.terminal import CONTROL


class Screen(io.StringIO):
    """A terminal that is not one."""

    def isatty(self):
        return True


def shown(monkeypatch, columns):
    found = result(run("clients", 8, [answered(), answered(wait=1.25)]), run("rate", 0.5, [answered()]))
    screen = Screen() if columns else io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    print_table([row_of("ours", one) for one in found["runs"]], named=True)
    return [line.rstrip() for line in CONTROL.sub("", screen.getvalue()).splitlines()]


def test_a_narrow_terminal_has_percentiles_below_each_other(monkeypatch):
    lines = shown(monkeypatch, 80)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for word in (
        "8 at once",
        "0.5 per second",
        "ours",
        "answered",
        "requests/s",
        "tokens/s",
        "token,",
        "p50",
        "p99",
    ):
        assert word in text
    assert " / " not in text
    assert "1,268" in text


@pytest.mark.parametrize("columns", [70, 60])
def test_on_narrower_terminals_a_run_is_a_paragraph_with_everything(monkeypatch, columns):
    lines = shown(monkeypatch, columns)
    assert max(map(len, lines)) <= columns
    assert [line for line in lines if not line.startswith(" ")] == ["ours, 8 at once", "ours, 0.5 per second"]
    assert " ".join(" ".join(lines).split()).startswith(
        "ours, 8 at once answered 2, failed 0, requests/s 1.56, tokens/s 6.2, "
        "first token p50 / p90 / p99 675 / 1,135 / 1,238 ms, per token p50 / p90 / p99 10.0 / 10.0 / 10.0 ms, "
        "whole answer p50 / p90 / p99 705 / 1,165 / 1,268 ms ours, 0.5 per second answered 1,"
    )


@pytest.mark.parametrize("columns", [140, None])
def test_elsewhere_a_run_is_a_line(monkeypatch, columns):
    lines = shown(monkeypatch, columns)
    (line,) = [line for line in lines if "8 at once" in line]
    assert "675 / 1,135 / 1,238" in line
    assert "10.0 / 10.0 / 10.0" in line


def test_a_pipe_gets_no_control_sequences(monkeypatch):
    monkeypatch.setattr(sys, "stdout", screen := io.StringIO())
    print_table([row_of("ours", result()["runs"][0])])
    assert "\x1b" not in screen.getvalue()
