"""The wheel and the sdist: what they contain, and that an installed wheel works without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from support.environments import ROOT, complete_environment, core_environment

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def build(*arguments: str | Path, cwd: Path) -> None:
    """Run a module of the environment that runs the tests, such as pip; it cannot go online."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "PIP_NO_INDEX": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_of(source: Path, out: Path) -> Path:
    """Build a wheel of ``source``, a directory or an sdist."""
    build(
        "pip",
        "wheel",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        out,
        source,
        cwd=out.parent,
    )
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git tracks, as they are now, and nothing else."""
    root = tmp_path_factory.mktemp("export") / "mmbuild"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def wheel(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(export, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def sdist(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    build("hatchling", "build", "--target", "sdist", "--directory", out, cwd=export)
    (archive,) = out.glob("*.tar.gz")
    return archive


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def metadata(wheel: Path) -> Message:
    (text,) = [text for name, text in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(text.decode("utf-8"))


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path, export: Path) -> None:
    inside = {name for name in contents(wheel) if ".dist-info/" not in name}
    package = export / "src"
    assert inside == {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    data = {Path(name).suffix for name in inside} - {".py"}
    assert {".yaml", ".json", ".j2", ".jinja", ".h", ".cpp", ".typed"} <= data


def test_what_the_wheel_says_about_itself(wheel: Path) -> None:
    said = metadata(wheel)
    assert said["Name"] == "mmbuild"
    assert said["License-Expression"] == "Apache-2.0"
    assert said.get_all("License-File") == ["LICENSE"]
    assert said.get_all("Classifier") == PROJECT["classifiers"]
    assert set(said.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload() == (ROOT / "README.md").read_text("utf-8")
    assert {
        f"mmbuild-{said['Version']}.dist-info/{name}" for name in ("entry_points.txt", "licenses/LICENSE")
    } <= set(contents(wheel))


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    assert contents(wheel_of(sdist, tmp_path / "dist")) == contents(wheel)


def test_the_sdist_has_what_the_repository_has(sdist: Path, export: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {str(file.relative_to(export)) for file in export.rglob("*") if file.is_file()}
    assert inside - tracked == {"PKG-INFO"}
    assert {name.partition("/")[0] for name in tracked - inside} == {".ci"}


class Installed:
    """A wheel in its own virtual environment, and an empty directory that is not the repository."""

    def __init__(self, python: Path, wheel: Path, work: Path) -> None:
        self.work, self.programs = work, python.parent
        work.mkdir()
        build("pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=work)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the virtual environment, without variables that lead to the repository."""
        program, *arguments = command
        return subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.work / "home"),
                "MMBUILD_STORE": str(self.work / "store"),
                "HF_HUB_OFFLINE": "1",
                "NO_COLOR": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def prints(self, *command: str) -> str:
        """Standard output of a command that succeeds."""
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With torch and the other packages of the environment that runs the tests, and with a demo model."""
    root = tmp_path_factory.mktemp("installed")
    found = Installed(complete_environment(root / "venv"), wheel, root / "work")
    shutil.copytree(ROOT / "examples/models/llava-shapes", found.work / "model")
    return found


def test_the_installed_package_is_the_one_that_runs(installed: Installed) -> None:
    code = "import mmbuild, torch; print(mmbuild.__file__)"
    place = Path(installed.prints("python", "-c", code).strip())
    assert place.is_relative_to(installed.programs.parent)


def test_from_a_model_to_a_plan(installed: Installed, wheel: Path) -> None:
    assert installed.prints("mmbuild", "--version") == f"mmbuild {metadata(wheel)['Version']}\n"
    installed.prints("mmbuild", "init", "model", "-o", "mine.yaml")
    assert installed.prints("mmbuild", "validate", "mine.yaml").startswith("ok ")
    lines = installed.prints("mmbuild", "plan", "mine.yaml").splitlines()
    steps = [line.split()[1].rpartition("/")[2] for line in lines if line.startswith("run ")]
    assert {"download", "convert", "build_llm", "build_visual", "assemble"} <= set(steps)
    assert f"{len(steps)} to run" in lines


def test_tables_that_are_package_data(installed: Installed, export: Path) -> None:
    assert installed.prints("mmbuild", "explain", "MM141").startswith("MM141")
    assert installed.prints("mmbuild", "schema") == (export / "recipes/schema.json").read_text("utf-8")


def test_without_extras_the_hint_names_the_wheel_file(wheel: Path, tmp_path: Path) -> None:
    bare = Installed(core_environment(tmp_path / "venv"), wheel, tmp_path / "work")
    shutil.copytree(ROOT / "examples/models/llava-shapes", bare.work / "model")
    bare.prints("mmbuild", "init", "model", "-o", "mine.yaml")
    bare.prints("mmbuild", "validate", "mine.yaml")
    done = bare.run("mmbuild", "plan", "mine.yaml")
    assert done.returncode == 1
    assert "MM230" in done.stderr
    assert f"hint: pip install '{wheel}[torch]'; to plan without it" in done.stderr
