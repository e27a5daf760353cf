"""A damaged store on the command line: error codes instead of tracebacks, and the right engine in the end."""

import hashlib
import json
import os
import time

import pytest

from support.projects.demo_project import NAME, RECIPE


def built(project):
    place = project.root / "build" / NAME
    return {path.name: path.read_bytes() for path in place.rglob("*.json") if path.name != "manifest.json"}


@pytest.mark.slow
def test_modified_cached_plan_is_made_again_and_builds_the_right_engine(project):
    """Even with a recomputed checksum: keys are compared with content before anything runs."""
    time.sleep(0.1)  # files written a moment ago are not cached by their times
    first = json.loads(project.run("plan", RECIPE, "--json").stdout)
    (path,) = (project.root / "store" / "plans").iterdir()
    text = path.read_bytes().partition(b"\n")[2]
    assert b'"max_batch_size":' in text
    wrong = text.replace(b'"max_batch_size":', b'"max_batch_size":1')
    path.write_bytes(hashlib.blake2b(wrong, digest_size=20).hexdigest().encode() + b"\n" + wrong)
    assert json.loads(project.run("plan", RECIPE, "--json").stdout) == first
    path.write_bytes(hashlib.blake2b(wrong, digest_size=20).hexdigest().encode() + b"\n" + wrong)
    project.run("apply", RECIPE)
    (result,) = (text for name, text in built(project).items() if name == "result.json")
    assert b"max_batch_size" in result
    assert b'"max_batch_size": 1' not in result


def test_verify_names_what_it_removed_and_apply_repairs_it(project):
    project.run("apply", RECIPE)
    right = built(project)
    victim = next((project.root / "store" / "objects").glob("*/*"))
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes() + b" ")
    edited = project.root / "build" / NAME / "result.json"
    edited.chmod(0o644)
    edited.write_text("edited")
    out = project.run("cache", "verify", status=1).stdout
    assert f"removed: `{victim.name}`" in out
    assert f"voided: `{project.root / 'build' / NAME}`" in out
    project.run("apply", RECIPE)
    assert built(project) == right
    assert project.run("cache", "verify").stdout == ""


@pytest.mark.parametrize("verb", [("plan", RECIPE), ("cache", "gc"), ("history",)])
def test_a_store_whose_staging_is_a_link_is_refused_by_every_verb(project, verb):
    (project.root / "store").mkdir()
    (project.root / "store" / "VERSION").write_text("1\n")
    (project.root / "victim").mkdir()
    (project.root / "store" / "staging").symlink_to(project.root / "victim")
    done = project.run(*verb, status=1)
    assert "[MM320]" in done.stderr
    assert "staging" in done.stderr


def test_a_recipe_in_flow_style_is_a_recipe(project):
    import yaml

    recipe = yaml.safe_load((project.root / RECIPE).read_text())
    place = (project.root / RECIPE).with_name("flow.yaml")
    place.write_text(json.dumps({**recipe, "name": "flow"}))
    project.run("apply", str(place))
    assert (project.root / "build" / "flow").is_dir()


def test_unwritable_events_do_not_stop_the_build(project):
    """Standard output is full from the first line on; the build still completes."""
    import subprocess
    import sys

    with open("/dev/full", "w") as full:
        subprocess.run(
            [sys.executable, "-m", "mmbuild", "apply", "--offline", "--json", RECIPE],
            cwd=project.root,
            env={**os.environ, **project.environment},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (project.root / "build" / NAME / "manifest.json").exists()
