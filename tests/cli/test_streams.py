"""Standard output and standard error that are closed, full, without a reader, or of another encoding."""

import json
import os
import subprocess
import sys
import warnings

import click
import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.cli.output import print_status, run_guarded


def shell(line, **environment):
    """Run a shell command line in which `mmbuild` works."""
    script = f'mmbuild() {{ "{sys.executable}" -m mmbuild "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
@pytest.mark.parametrize("verb", ["explain MM103", "--version"])
def test_output_that_cannot_be_written_ends_with_a_code(verb, where):
    done = shell(f"mmbuild {verb} {where}")
    assert done.returncode == 1
    assert b"[MM780]" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-"])
def test_error_goes_to_standard_output_if_standard_error_is_closed(where):
    done = shell(f"mmbuild explain nonsense {where}")
    assert done.returncode == 2
    assert done.stdout == b"error: no code `nonsense` [MM190]\n"


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-", "<&-"])
def test_lost_messages_do_not_change_the_result(where):
    done = shell(f"mmbuild explain MM103 {where}")
    assert done.returncode == 0
    assert done.stdout.startswith(b"MM103")


def test_without_any_stream_there_is_still_a_status():
    assert shell("mmbuild explain MM103 <&- >&- 2>&-").returncode == 1


def test_reader_that_exits_early_is_not_a_failure():
    done = shell('mmbuild schema | head -c 1; exit "${PIPESTATUS[0]}"')
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{", b"")


def test_opened_file_never_becomes_standard_output():
    """Output must not end up in the store: closed descriptors are occupied before anything is opened."""
    script = "import os\nfrom mmbuild.base.output_streams import guarded_streams\n"
    script += "with guarded_streams():\n    assert os.open('/dev/null', os.O_RDONLY) > 2\n"
    done = shell(f'"{sys.executable}" -c "{script}" <&- >&- 2>&-')
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_missing_from_the_encoding_are_escaped(encoding):
    done = shell("mmbuild validate $'\\u6f22.yaml'", PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert ("\\u6f22" if encoding != "utf-8" else "漢") in done.stderr.decode(encoding)


def test_foreign_escape_sequences_do_not_reach_the_terminal(capsys):
    def body():
        print_status("label \x1b[2J\u202e")
        click.echo("answer \x1b]0;title\x07")
        print(json.dumps({"text": "\x9b31m\u2066"}, ensure_ascii=False))
        raise MmbuildError("bad \x1b[31m\nerror: forged", code="MM1", hint="do \x07\nhint: forged")

    assert run_guarded(body) == 1
    captured = capsys.readouterr()
    for stream in captured:
        assert not set(stream) & set("\x1b\x07\x9b\u202e\u2066")
        assert "\nerror: forged" not in stream
        assert "\nhint: forged" not in stream
    assert json.loads(captured.out.splitlines()[1]) == {"text": "\x9b31m\u2066"}


def test_an_interrupt_while_an_error_is_reported_is_one_line(capsys):
    class HeldError(MmbuildError):
        @property
        def details(self):
            raise KeyboardInterrupt

    def body():
        raise HeldError("m", code="MM1")

    assert run_guarded(body) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_library_warnings_are_reformatted_or_silenced(capsys):
    def body():
        warnings.simplefilter("always")
        warnings.warn("look\nhere", UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    with warnings.catch_warnings():
        run_guarded(body)
    assert capsys.readouterr().err == "warning: look here\n"
