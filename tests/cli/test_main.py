"""The command line itself: help, versions, statuses, errors."""

import subprocess
import sys

import pytest

from mmbuild import __version__
from mmbuild.base.errors import MmbuildError, StalePlanError, UsageError
from mmbuild.cli import VERBS, main
from mmbuild.cli.output import run_guarded


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mmbuild {__version__}\n"


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb, line in VERBS.items():
        assert verb in out
        assert line in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:" in out
    assert f"mmbuild {verb}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plam"], "did you mean `plan`"),
        (["plan"], "Missing argument"),
        (["plan", "x.yaml", "--hlep"], "--hlep"),
        (["apply", "x.yaml", "--jobs", "0"], "jobs"),
        (["apply", "x.yaml", "--jobs", "many"], "jobs"),
    ],
)
def test_wrong_command_line_is_reported_and_exits_with_2(arguments, words, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error:")
    assert words in captured.err
    assert "hint:" in captured.err


def raising(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MmbuildError("m", code="MM1"), 1),
        (UsageError("m", code="MM1"), 2),
        (StalePlanError("m", code="MM1"), 4),
        (ValueError("m"), 2),
        (OSError(36, "File name too long", "x" * 5000), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(3), 3),
    ],
)
def test_exit_statuses(error, status, capsys):
    assert run_guarded(raising(error)) == status
    assert "Traceback" not in capsys.readouterr().err


def test_error_is_reported_with_causes_and_hint(capsys):
    error = MmbuildError("the file is odd", code="MM9", hint="make it even")
    error.__cause__ = OSError("disk on fire")
    run_guarded(raising(error))
    assert capsys.readouterr().err == (
        "error: the file is odd [MM9]\n  caused by: OSError: disk on fire\n\nhint: make it even\n"
    )


def test_debug_shows_the_traceback(capsys):
    run_guarded(raising(ValueError("m")), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from mmbuild.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'yaml', 'rich', 'numpy', 'huggingface_hub'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reader_that_exits_early_is_not_an_error():
    done = subprocess.run(
        f"{sys.executable} -m mmbuild --help | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("verb", ["compat", "run", "verify", "compare", "validate", "plan"])
def test_name_that_is_too_long_is_not_reported_as_a_bug(verb, capsys):
    prompt = ["--prompt", "x"] if verb == "run" else []
    assert main([verb, "x" * 5000, *prompt]) == 1
    err = capsys.readouterr().err
    assert "[MM" in err
    assert "this is a bug" not in err
