"""The command line itself: help, versions, statuses, errors."""

import subprocess
import sys

import click
import pytest

from mmbuild import __version__
from mmbuild.__main__ import run as installed_command
from mmbuild.base.errors import MmbuildError, StalePlanError, UsageError
from mmbuild.cli import GROUPS, VERBS, command_group, commands, main
from mmbuild.cli.output import run_guarded


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mmbuild {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:" in out
    assert f"mmbuild {verb}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plam"], "did you mean `mmbuild plan`?"),
        (["build", "x.yaml"], "did you mean `mmbuild apply`?"),
        (["ls"], "did you mean `mmbuild cache ls`?"),
        (["version"], "did you mean `mmbuild --version`?"),
        (["frobnicate"], "commands are init, validate,"),
        (["ci", "frobnicate"], "frobnicate"),
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


@pytest.mark.parametrize("arguments", [["plan", "recipe.yaml"], ["init", "./model"], ["lock", "recipe.yaml"]])
def test_a_directory_that_was_removed_is_named_as_the_cause(arguments, capsys, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the current directory no longer exists [MM781]")
    assert "hint: change to another directory" in told


def test_help_lists_every_command_in_its_group(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for title, verbs in GROUPS.items():
        section = text.split(f"\n{title}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines() if line.startswith("  ")] == list(verbs)


@pytest.mark.parametrize(
    ("old", "new"),
    [(["matrix"], ["ci", "plan"]), (["matrix-diff"], ["ci", "diff"]), (["ci"], ["ci", "run"])],
)
def test_old_spellings_work_and_name_the_new_ones(old, new, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    status = main([*new, "recipes", "--store", "store"])
    expected = capsys.readouterr()
    assert main([*old, "recipes", "--store", "store"]) == status
    said = capsys.readouterr()
    note, rest = said.err.split("\n", 1)
    assert f"is now `mmbuild {' '.join(new)}" in note
    assert (said.out, rest) == (expected.out, expected.err)


CONTINUE = "interrupted; finished actions are kept, run the same command again to continue"


@pytest.mark.parametrize(("resumes", "said"), [(True, CONTINUE), (False, "interrupted")])
def test_ctrl_c_says_whether_the_command_continues(resumes, said, capsys):
    @commands.command("work", resumes=resumes)
    def work():
        raise KeyboardInterrupt

    assert run_guarded(lambda: work.main([], standalone_mode=False)) == 130
    assert capsys.readouterr().err.strip() == said


def test_apply_and_ci_run_continue_and_nothing_else_does():
    resuming = {name for name, command in every_command() if getattr(command, "resumes", False)}
    assert resuming == {"apply", "ci run"}


def every_command():
    group = command_group()
    for name in VERBS:
        command = group.get_command(click.Context(group), name)
        yield name, command
        if isinstance(command, click.Group):
            for below in command.list_commands(click.Context(command)):
                yield f"{name} {below}", command.get_command(click.Context(command), below)


def test_ctrl_c_before_a_command_runs(monkeypatch, capsys):
    monkeypatch.setattr("mmbuild.cli._run", raising_for_words(KeyboardInterrupt()))
    assert main(["plan"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_in_the_installed_command(monkeypatch, capsys):
    monkeypatch.setattr("mmbuild.cli.main", raising(KeyboardInterrupt()))
    assert installed_command() == 130
    assert capsys.readouterr().err == "interrupted\n"


def raising_for_words(error):
    return lambda _words: raising(error)()


@pytest.mark.parametrize("columns", [80, 60])
def test_help_folds_the_exit_statuses(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    section = text[text.index("  Exit status:") : text.index("  Completion:")]
    assert max(map(len, section.splitlines())) <= columns
    assert "a stale plan, 130 interrupted." in " ".join(section.split())
