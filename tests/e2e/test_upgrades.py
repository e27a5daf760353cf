"""What an older mmbuild left behind: read, or refused with the one command that mends it.

``fixtures/project-9d5f9bf.tar.xz`` is a project with store, shared store, lock, saved plan and engine as the commit
of that name made them, of a LLaVA with one layer and random weights.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support import TESTS

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "project-9d5f9bf.tar.xz"
MADE_AT = "/srv/mmbuild-old"
ACTIONS = ("download", "convert", "quantize", "build_llm", "build_visual", "convert_visual", "assemble")


@pytest.fixture
def project(tmp_path):
    """The project, with its paths changed to the current directory."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    plan = tmp_path / "saved-plan.json"
    plan.write_text(plan.read_text().replace(MADE_AT, str(tmp_path)))
    for path in (tmp_path / "store" / "roots").iterdir():
        root = json.loads(path.read_text().replace(MADE_AT, str(tmp_path)))
        root["files"] = {
            name: [
                (info := (tmp_path / "build" / "old" / name).stat()).st_ino,
                info.st_size,
                info.st_mtime_ns,
            ]
            for name in root["files"]
        }
        name = hashlib.blake2b(os.fsencode(root["directory"]), digest_size=16).hexdigest()
        path.with_name(f"{name}.json").write_text(json.dumps(root))
        path.unlink()
    return tmp_path


def mmbuild(project, *arguments, steps=False, remote="off"):
    """The command line in the project; nothing may end in a traceback or be called a bug."""
    environment = {
        **os.environ,
        "MMBUILD_STORE": str(project / "store"),
        "MMBUILD_REMOTE": remote,
        "XDG_CACHE_HOME": str(project / "cache"),
        "NO_COLOR": "1",
    }
    if steps:
        environment |= {"MMBUILD_STEPS": "support.steps.recipe_steps:TABLE", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-m", "mmbuild", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "bug in mmbuild" not in done.stderr
    return done


def advice(done):
    """The commands that a refusal names; it has a code."""
    assert re.search(r"\[MM\d{3}\]", done.stderr), done.stderr
    return re.findall(r"`(mmbuild [^`]+)`", done.stderr.lower())


def test_a_plan_reads_the_old_store_and_uses_what_is_still_the_same(project):
    done = mmbuild(project, "plan", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(up to date|run|unknown)\s+old/(\w+)", done.stdout, flags=re.M)
    verdicts = {step: verdict for verdict, step in found}
    assert set(verdicts) == set(ACTIONS)
    assert verdicts["download"] == "up to date"


def test_every_file_of_the_old_store_is_found_whole(project):
    done = mmbuild(project, "cache", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 artifacts checked, 0 faults" in done.stdout + done.stderr


def test_the_old_store_is_listed_and_its_named_build_is_kept_by_gc(project):
    listed = mmbuild(project, "cache", "ls")
    assert listed.returncode == 0
    assert listed.stdout.count("old") >= len(ACTIONS)
    assert mmbuild(project, "cache", "gc").returncode == 0
    assert mmbuild(project, "cache", "ls").stdout.count("old/") == listed.stdout.count("old/")


def test_history_and_reasons_reach_back_to_the_old_store(project):
    assert mmbuild(project, "history").stdout.strip()
    assert mmbuild(project, "why", "recipe.yaml").returncode == 0


def test_an_apply_continues_from_the_old_store(project):
    done = mmbuild(project, "apply", "recipe.yaml", "--ignore-estimates", steps=True)
    assert done.returncode == 0, done.stderr
    assert mmbuild(project, "cache", "verify").returncode == 0


def test_an_old_lock_is_compared_and_the_command_that_renews_it_named(project):
    done = mmbuild(project, "lock", "--check", "recipe.yaml")
    if done.returncode:
        assert "mmbuild lock recipe.yaml" in advice(done)
        assert mmbuild(project, "lock", "recipe.yaml").returncode == 0
    assert mmbuild(project, "lock", "--check", "recipe.yaml").returncode == 0


def test_an_old_saved_plan_is_called_stale_with_the_command_that_renews_it(project):
    done = mmbuild(project, "apply", "saved-plan.json")
    assert done.returncode in (1, 4)
    assert any(command.startswith("mmbuild plan") for command in advice(done))


def test_an_old_engine_answers_or_is_refused_with_one_command(project):
    done = mmbuild(project, "run", "build/old", "--image", "picture.png", "--prompt", "what ?")
    if done.returncode == 0:
        assert done.stdout.strip()
    else:
        assert any(command.startswith("mmbuild apply") for command in advice(done))


def test_what_an_old_engine_needs_is_still_read(project):
    done = mmbuild(project, "compat", "build/old")
    assert "torch" in done.stdout
    assert done.returncode == 0 or advice(done)


def test_an_old_shared_store_gives_what_is_still_the_same(project):
    shutil.rmtree(project / "store")
    remote = f"file://{project}/shared"
    done = mmbuild(project, "plan", "recipe.yaml", remote=remote)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^(pull|up to date)\s+old/download", done.stdout, flags=re.M), done.stdout + done.stderr
    pulled = mmbuild(project, "cache", "pull", "recipe.yaml", remote=remote)
    assert pulled.returncode == 0, pulled.stderr
    assert mmbuild(project, "cache", "verify").returncode == 0
