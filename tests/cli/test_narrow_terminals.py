"""What is printed at 80 and 60 columns: nothing is broken inside words or numbers, and colours only on terminals."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest

from support.projects.demo_project import NAME, RECIPE, Project
from support.terminal import CONTROL, SGR, Terminal

BUILT = Path(__file__).parents[1] / "fixtures" / "project-9d5f9bf.tar.xz"
WIDTHS = [80, 60]
# A status line, which slow commands draw, up to what erases it.
ERASED = re.compile(r"\r\x1b\[K[^\r\n]*(?=\r\x1b\[K)")


ENGINES = ["first-engine-of-several", "second-engine-of-several", "third-engine-of-several"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A failed and a complete apply, some old engines, and recipes before an edit in `before`. Only read by tests."""
    root = tmp_path_factory.mktemp("narrow")
    project = Project(root)
    project.run("apply", RECIPE, "-j1", status=1, MMBUILD_TEST_KILL="int4")
    project.run("apply", RECIPE)
    with tarfile.open(BUILT) as archive:
        archive.extractall(root / "old", filter="data")
    for name in ENGINES:
        shutil.copytree(root / "old" / "build" / "old", root / "build" / name)
    for name in ("recipes", "examples"):
        shutil.copytree(root / name, root / "before" / name)
    base = root / "before" / "recipes" / "demo" / "llava.yaml"
    base.write_text(base.read_text().replace("max_batch_size: 4", "max_batch_size: 3"))
    return project


def shown(
    project: Project, width: int, *words: str, status: int = 0, color: bool = False, **environment: str
) -> str:
    """The output of a command on a terminal of this width, with its control sequences, without what was erased."""
    variables = {**project.environment, "COLUMNS": str(width), **environment}
    if color:
        del variables["NO_COLOR"]
    terminal = Terminal(list(words), project.root, variables)
    assert terminal.finish() == status, terminal.shown
    return ERASED.sub("", terminal.shown).replace("\r\n", "\n")


def require_width(text: str, width: int) -> None:
    """Each line fits, or is one word, or ends with text in backticks, which is kept whole."""
    for line in CONTROL.sub("", text).splitlines():
        assert len(line) <= width or " " not in line.strip() or line.strip().startswith("`"), line


def words_of(text: str) -> list[str]:
    return CONTROL.sub("", text).split()


CHANGED = ["plan", RECIPE, "--set", "engine.max_batch_size=3"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", [CHANGED, ["plan", RECIPE], [*CHANGED, "--explain"]])
def test_a_plan_has_the_same_words_in_narrow_lines(project: Project, width: int, words: list[str]) -> None:
    text = shown(project, width, *words)
    require_width(text, width)
    assert words_of(text) == project.run(*words).stdout.split()


@pytest.mark.parametrize("width", WIDTHS)
def test_history_fits(project: Project, width: int) -> None:
    text = shown(project, width, "history")
    require_width(text, width)
    assert f"{NAME}/quantize MM311" in " ".join(words_of(text))
    assert "took" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_logs_fit(project: Project, width: int) -> None:
    require_width(shown(project, width, "logs"), width)


@pytest.mark.parametrize("width", WIDTHS)
def test_findings_fit(project: Project, width: int) -> None:
    words = ["validate", RECIPE, "--set", "engine.quantization=awq"]
    text = shown(project, width, *words, status=1)
    require_width(text, width)
    assert words_of(text) == project.run(*words, status=1).stderr.split()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_of_the_store_fits(project: Project, width: int) -> None:
    text = shown(project, width, "cache", "ls")
    require_width(text, width)
    assert text.count(f"{NAME}/quantize") == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_compare_puts_builds_below_one_another(project: Project, width: int) -> None:
    text = shown(project, width, "compare", *ENGINES, "--no-check")
    require_width(text, width)
    assert [text.count(f" {name}") for name in ENGINES] == [1, 1, 1]
    assert text.count("building's peak memory") == (2 if width == 80 else 3)


@pytest.mark.parametrize("width", WIDTHS)
def test_ci_diff_is_readable(project: Project, width: int) -> None:
    words = ["ci", "diff", "before", ".", "--recipes", "recipes/demo"]
    text = shown(project, width, *words)
    require_width(text, width)
    assert f"`{NAME}`" in text
    assert "engine.max_batch_size" in text
    assert "| `" not in text
    assert f"| `{NAME}` |" in project.run(*words).stdout  # Markdown where it is not a terminal


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", [["ci", "plan", "recipes/demo"], ["explain", "MM162"]])
def test_jobs_and_explanations_fit(project: Project, width: int, words: list[str]) -> None:
    require_width(shown(project, width, *words), width)


@pytest.mark.parametrize("width", WIDTHS)
def test_errors_fit_and_commands_in_them_stay_whole(project: Project, width: int) -> None:
    text = shown(project, width, "compat", "examples", status=1)
    require_width(text, width)
    assert "`mmbuild apply RECIPE`" in text
    assert "`build/<name>`" in text


def test_verdicts_have_colours_on_a_terminal(project: Project) -> None:
    text = shown(project, 200, *CHANGED, color=True)
    assert "\x1b[33;1mrun\x1b[0m " in text
    assert "\x1b[2mup to date\x1b[0m " in text
    assert "\x1b[36mmay change\x1b[0m " in text
    assert CONTROL.sub("", text) == project.run(*CHANGED).stdout


def test_without_colour_under_no_color(project: Project) -> None:
    assert not SGR.search(shown(project, 80, *CHANGED))


def test_failures_have_colours_on_a_terminal(project: Project) -> None:
    words = ["apply", RECIPE, "--store", "another", "--build-dir", "other", "--no-progress"]
    text = shown(project, 200, *words, status=1, color=True, MMBUILD_TEST_FAIL="int4")
    assert "\x1b[31;1merror:\x1b[0m step `quantize`" in text
    assert "\x1b[31;1m1 failed\x1b[0m, " in text
    assert text.count("ZeroDivisionError") == 1  # told once
    assert not SGR.search(shown(project, 200, *words, status=1, MMBUILD_TEST_FAIL="int4"))
