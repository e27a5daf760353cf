"""``mmbuild bench`` as a user sees it, and its results in ``mmbuild compare``."""

import json
import re

import pytest

from mmbuild.cli import main
from support.engines.loaded import demo_directory
from support.html_page import Page
from support.measured import answered, result, run
from support.servers.openai import chat_server

QUICK = ("--image-size", "16", "--requests", "4", "--max-new-tokens", "4", "--warmup", "0")


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


def bench(capsys, *arguments, status=0):
    assert main(["bench", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured


def rows(text):
    """Load -> the other cells, from a table on a pipe."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) >= 8}


def test_a_server_is_measured(server, capsys):
    server.version = "0.99"
    reported = bench(capsys, "--url", server.url, "--clients", "1,2", "--rate", "50", *QUICK)
    assert reported.err == "measuring 1 at once ...\nmeasuring 2 at once ...\nmeasuring 50 per second ...\n"
    found = rows(reported.out)
    assert [name for name in found if name != "load"] == ["1 at once", "2 at once", "50 per second"]
    assert found["1 at once"][:2] == ["4", "0"]
    assert all(re.fullmatch(r"[\d.,]+ / [\d.,]+ / [\d.,]+", cell) for cell in found["2 at once"][-3:])
    assert "\x1b" not in reported.out


def test_files_and_json(server, capsys, tmp_path):
    out, html = tmp_path / "a.json", tmp_path / "a.html"
    words = ("--url", server.url, "--clients", "2", "-o", out, "--html", html, "--json", *QUICK)
    printed = bench(capsys, *words).out
    assert printed == out.read_text()
    data = json.loads(printed)
    assert data["target"]["model"] == "shapes"
    assert data["extent"] == {"requests": 4, "seconds": None, "warmup": 0}
    assert [len(run["requests"]) for run in data["runs"]] == [4]
    assert "2 at once" in " ".join(Page(html.read_text()).text)


def test_failures_are_counted_and_shown(server, capsys):
    server.reply = lambda number: "429" if number % 2 else "500" if number == 2 else "ok"
    reported = bench(capsys, "--url", server.url, "--clients", "1", *QUICK)
    assert rows(reported.out)["1 at once"][:2] == ["1", "3"]
    assert "1 at once: 2 failed: HTTP 429, rate_limit_exceeded: slow down" in reported.out
    assert "1 at once: 1 failed: HTTP 500: <html>Internal" in reported.out


def test_a_run_of_failures_exits_with_1_and_keeps_the_result(server, capsys, tmp_path):
    server.reply = lambda _: "429"
    words = ("--url", server.url, "--clients", "1", "-o", tmp_path / "a.json", *QUICK)
    reported = bench(capsys, *words, status=1)
    assert "error: no request got a complete answer: 1 at once [MM864]" in reported.err
    assert rows(reported.out)["1 at once"][:2] == ["0", "4"]
    assert json.loads((tmp_path / "a.json").read_text())["runs"][0]["summary"]["failed"] == 4


def test_hostile_messages_stay_on_their_line(server, capsys):
    server.models = ("a\x1b[31m\nb",)
    server.reply = lambda _: "error event"
    reported = bench(capsys, "--url", server.url, "--clients", "1", *QUICK, status=1)
    assert "\x1b" not in reported.out + reported.err


def test_a_key_is_sent_and_not_kept(server, capsys, tmp_path):
    server.key = "sk-secret"
    (tmp_path / "key").write_text("sk-secret\n")
    words = ("--url", server.url, "--clients", "1", "-o", tmp_path / "a.json", *QUICK)
    assert "[MM861]" in bench(capsys, *words, status=1).err
    bench(capsys, *words, "--api-key-file", tmp_path / "key")
    assert "secret" not in (tmp_path / "a.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either an engine or a server"),
        (["x", "--url", "http://a"], "either an engine or a server"),
        (["--url", "http://a", "--batch", "1"], "`--batch` is an option for an engine"),
        (["x", "--clients", "1"], "`--clients` is an option for a server"),
        (["x", "--timeout", "1"], "`--timeout` is an option for a server"),
        (["x", "--api-key-file", "k"], "`--api-key-file` is an option for a server"),
        (["--url", "nowhere"], "not the URL of a server"),
        (["--url", "http://."], "not the URL of a server"),
        (["--url", f"http://{'a' * 64}.b"], "not the URL of a server"),
        (["--url", "http://a", "--clients", "0"], "`0` in `0` is not a positive whole number"),
        (["--url", "http://a", "--rate", "1,x"], "`x` in `1,x` is not a positive number"),
        (["--url", "http://a", "-o", "missing/a.json"], "`missing` is not a directory"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reported = bench(capsys, *arguments, status=2)
    assert words in reported.err
    assert "[MM860]" in reported.err
    assert reported.out == ""


def test_a_missing_image_is_reported_before_anything_is_measured(server, capsys):
    assert "[MM517]" in bench(capsys, "--url", server.url, "--image", "missing.png", *QUICK, status=1).err
    assert server.bodies == []


def test_an_image_file_is_sent(server, capsys, tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.bmp")
    reported = bench(capsys, "--url", server.url, "--clients", "1", "--image", tmp_path / "a.bmp", *QUICK)
    assert "4 requests used 1 different questions" in reported.out
    assert "data:image/bmp;base64," in str(server.bodies[0])


@pytest.mark.slow
def test_an_engine_is_measured(capsys, tmp_path):
    words = ("--prompt", "how many ?", "--requests", "4", "--image-size", "32", "-o", tmp_path / "a.json")
    found = rows(bench(capsys, demo_directory(), *words, "--ignore-eos").out)
    assert [name for name in found if name != "load"] == ["batches of 1", "batches of 2", "batches of 4"]
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["workload"]["max_tokens"] == 40
    assert {one["tokens"] for run in data["runs"] for one in run["requests"]} == {40}
    assert "batches of 8 are requested" in bench(capsys, demo_directory(), "--batch", "8", status=2).err
    assert "[MM515]" in bench(capsys, demo_directory(), "--max-new-tokens", "41", *words[:2], status=1).err


def test_a_directory_that_is_no_engine(capsys, tmp_path):
    assert "[MM" in bench(capsys, tmp_path, status=1).err


@pytest.fixture
def results(tmp_path):
    from mmbuild.serving.bench.document import as_text

    paths = []
    for name, runs in (
        ("ours", [run("batch", 2, [answered()])]),
        ("theirs", [run("clients", 2, [answered(wait=0.2)])]),
    ):
        (tmp_path / f"{name}.json").write_text(as_text(result(*runs)))
        paths.append(str(tmp_path / f"{name}.json"))
    return paths


def test_compare_shows_results_side_by_side(results, capsys):
    assert main(["compare", *results]) == 0
    assert [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()] == [
        ["first token, ms", "per token, ms", "whole answer, ms"],
        ["result", "load", "answered", "failed", "requests/s", "tokens/s", *["p50 / p90 / p99"] * 3],
        [
            "ours",
            "batches of 2",
            "1",
            "0",
            "7.69",
            "30.8",
            "100 / 100 / 100",
            "10.0 / 10.0 / 10.0",
            "130 / 130 / 130",
        ],
        [
            "theirs",
            "2 at once",
            "1",
            "0",
            "4.35",
            "17.4",
            "200 / 200 / 200",
            "10.0 / 10.0 / 10.0",
            "230 / 230 / 230",
        ],
    ]


def test_compare_of_results_as_json(results, capsys):
    assert main(["compare", *results, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["builds"] == []
    assert [entry["label"] for entry in data["results"]] == ["ours", "theirs"]


def test_compare_refuses_other_files(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{}")
    assert main(["compare", str(tmp_path / "a.json")]) == 1
    assert "[MM865]" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_takes_builds_and_results(results, capsys):
    assert main(["compare", str(demo_directory()), *results, "--no-check"]) == 0
    text = capsys.readouterr().out
    assert text.index("quantization") < text.index("batches of 2")
