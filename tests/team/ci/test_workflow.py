"""The workflow of this repository: its commands are run as a runner would, artifacts between jobs included."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmbuild.team.ci.services import BASE, STAGES
from support.projects.demo_project import Project

ROOT = Path(__file__).parents[3]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/recipes.yml").read_text())
ACTION = yaml.safe_load((ROOT / ".github/actions/recipe-job/action.yml").read_text())


def command(steps, word):
    return next(step for step in steps if word in step.get("run", ""))


class Runner:
    """A fresh machine: the checkout, and the commands of steps in it with what they are given."""

    def __init__(self, root):
        root.mkdir()
        self.project = Project(root)
        (root / "bin").mkdir()
        (root / "bin" / "mmbuild").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmbuild "$@"\n')
        (root / "bin" / "mmbuild").chmod(0o755)
        self.root = root

    def run(self, step, **given):
        """A step's line under bash, as GitHub runs it; ``given`` replaces expressions in its ``env``."""
        environment = {**self.project.environment, **WORKFLOW["env"]}
        for name, value in step.get("env", {}).items():
            environment[name] = re.sub(r"\$\{\{ *(.*?) *\}\}", lambda found: given[found[1]], value)
        environment["PATH"] = f"{self.root / 'bin'}:{environment['PATH']}"
        environment |= {"GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "summary"}
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            words, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done


def expressions(value):
    """All `${{ ... }}` and conditions below a value of the workflow."""
    return re.findall(r"[\w.-]+", yaml.safe_dump(value))


def test_jobs_take_outputs_that_the_plan_gives():
    reported = {name for stage in STAGES for name in (stage, f"has_{stage}")}
    assert set(WORKFLOW["jobs"]["plan"]["outputs"]) == reported
    for stage in STAGES:
        job = WORKFLOW["jobs"][stage]
        assert job["strategy"]["matrix"] == f"${{{{ fromJSON(needs.plan.outputs.{stage}) }}}}"
        assert f"needs.plan.outputs.has_{stage}" in expressions(job["if"])
    order = list(STAGES)
    for at, stage in enumerate(order):
        needs = WORKFLOW["jobs"][stage]["needs"]
        assert set([needs] if isinstance(needs, str) else needs) == {"plan", *order[:at]}
    assert set(WORKFLOW["jobs"]["recipes"]["needs"]) == {"plan", *order}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Outputs of the plan on a push."""
    runner = Runner(tmp_path_factory.mktemp("plan") / "runner")
    runner.run(
        command(WORKFLOW["jobs"]["plan"]["steps"], "mmbuild ci plan "),
        **{"github.event.pull_request.base.sha": ""},
    )
    lines = (runner.root / "output").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines)


@pytest.mark.slow
def test_stores_of_jobs_laid_over_each_other_are_one_store(planned, tmp_path):
    """download-artifact merges what jobs before have uploaded; an engine then builds nothing that they built."""
    artifacts = {}
    downloads = {"download", "convert", "convert_visual"}
    for stage, name, expected in (
        ("shared", "shared-llava-shapes", downloads),
        ("shared", "shared-llava-shapes-build_visual", {"build_visual"}),
        ("shared", "shared-vila-shapes", downloads),
        ("engines", "llava-shapes", {"build_llm", "assemble", "measure", "verify"}),
    ):
        assert name in [entry["name"] for entry in json.loads(planned[stage])["include"]]
        runner = Runner(tmp_path / name)
        for artifact in artifacts.values() if stage == "engines" else ():
            shutil.copytree(artifact, runner.root / "shared-store", dirs_exist_ok=True)
        given = {
            "inputs.name": name,
            "inputs.recipes": WORKFLOW["env"]["RECIPES"],
            "github.workspace": str(runner.root),
        }
        said = runner.run(command(ACTION["runs"]["steps"], "mmbuild ci run"), **given).stderr
        artifacts[name] = runner.root / "shared-store"
        ran = re.findall(r"done   \S+/(\S+): [\d.]+ s, peak", said)
        assert set(ran) == expected
        assert (runner.root / "summary").read_text().startswith(f"### mmbuild: {len(expected)} built")


def test_the_examples_of_the_docs_are_yaml_with_the_stages_of_the_matrix():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), flags=re.S)
    github, gitlab, base = map(yaml.safe_load, blocks)
    for stage in STAGES:
        assert github["jobs"][stage]["strategy"] == WORKFLOW["jobs"][stage]["strategy"]
        assert github["jobs"][stage]["if"] == WORKFLOW["jobs"][stage]["if"]
        assert github["jobs"][stage]["needs"] == WORKFLOW["jobs"][stage]["needs"]
    assert github["jobs"]["plan"]["outputs"] == WORKFLOW["jobs"]["plan"]["outputs"]
    assert set(base) == {BASE}
    assert gitlab["engines"]["trigger"]["include"] == [{"artifact": "jobs.yml", "job": "plan"}]
