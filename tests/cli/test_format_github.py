"""`--format github`: annotations, folded logs and the job summary of apply and ci."""

from __future__ import annotations

import re

import pytest

from support.projects.demo_project import NAME, RECIPE, Project

LABEL = f"{NAME}/quantize"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("github"))
    found.environment["GITHUB_STEP_SUMMARY"] = str(found.root / "summary.md")
    return found


@pytest.fixture
def summary(project):
    path = project.root / "summary.md"
    path.unlink(missing_ok=True)
    return path


def unescaped(text):
    return text.replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",").replace("%25", "%")


def test_failed_action_is_annotated_at_its_line_with_a_folded_log(project, summary):
    done = project.run("apply", RECIPE, "--format", "github", status=1, MMBUILD_TEST_FAIL="int4")
    command, _, rest = done.stdout.partition("\n")
    found = re.fullmatch(r"::error file=([^,]+),line=(\d+),col=(\d+),title=([^:]+)::(.*)", command)
    file, line, column, title, message = map(unescaped, found.groups())
    assert file == RECIPE
    text = (project.root / file).read_text().splitlines()[int(line) - 1]
    assert text[int(column) - 1 :].startswith("quantization")
    assert title == f"MM310 {LABEL}"
    assert "the test asked for it" in message
    assert "\nhint: " in message
    group, stop, *log = rest.splitlines()
    assert group.startswith(f"::group::log of {LABEL} (")
    token = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", stop)[1]
    assert log[log.index(f"::{token}::") :][:2] == [f"::{token}::", "::endgroup::"]
    assert any("ZeroDivisionError" in line for line in log)
    assert "error: " in done.stderr
    reported = summary.read_text()
    assert "failed: quantize" in reported
    assert f"- `{LABEL}` MM310: " in reported


def test_successful_apply_is_a_row_of_the_summary(project, summary):
    done = project.run("apply", RECIPE, "--format", "github")
    assert done.stdout == f"build/{NAME}\n"
    head, _, _, _, row = summary.read_text().splitlines()[:5]
    assert re.fullmatch(r"### mmbuild: \d built, 0 pulled", head)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == f"`{NAME}`"
    assert int(cells[3]) + int(cells[5]) == 9
    before = summary.read_text()
    project.run("apply", RECIPE, "--format", "github")
    again = summary.read_text().removeprefix(before)
    assert again.splitlines()[0] == "### mmbuild: 0 built, 0 pulled"
    assert "| 0 | 0 | 9 |" in again


def test_without_a_summary_file_nothing_is_written(project, summary):
    project.run("apply", RECIPE, "--format", "github", GITHUB_STEP_SUMMARY="")
    project.run("apply", RECIPE)
    assert not summary.exists()


def test_recipe_and_planning_errors_are_annotated(project, summary):
    done = project.run("apply", RECIPE, "--set", "engine.dtyp=x", "--format", "github", status=1)
    assert done.stdout.startswith("::error file=--set engine.dtyp=x,line=1,")
    assert "title=MM103::" in done.stdout
    done = project.run("apply", RECIPE, "--locked", "--format", "github", status=1)
    assert re.match(r"::error title=MM800::there is no lock .*%0Ahint: ", done.stdout)
    assert "[MM800]" in done.stderr
    assert not summary.exists()


def test_a_job_of_a_matrix_reports_the_same_way(project, summary, tmp_path):
    words = (
        "ci",
        "run",
        RECIPE,
        "--store",
        tmp_path,
        "--build-dir",
        tmp_path / "build",
        "--format",
        "github",
    )
    done = project.run(*words, "--job", NAME, status=1, MMBUILD_TEST_FAIL="int4")
    assert f"::error file={RECIPE},line=" in done.stdout
    assert "failed: quantize" in summary.read_text()


def test_events_and_annotations_cannot_share_an_output(project):
    assert "--json" in project.run("apply", RECIPE, "--json", "--format", "github", status=2).stderr
