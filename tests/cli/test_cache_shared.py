"""cache push, pull, gc --remote and keygen, and apply with a shared store, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from support.projects.demo_project import NAME, RECIPE, Project


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "shared").mkdir()
    return f"file://{tmp_path}/shared"


@pytest.fixture
def machines(tmp_path, shared):
    """Two users, each with their own project and store."""
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        project = Project(tmp_path / name)
        project.environment["MMBUILD_CONFIG"] = str(tmp_path / f"{name}.yaml")
        (tmp_path / f"{name}.yaml").write_text(f"store:\n  remote: {shared}\n")
        found.append(project)
    return found


def verdicts(text):
    """Step -> verdict of a printed plan."""
    return {step: verdict for verdict, step in re.findall(r"^(\S[a-z ]*?)  +\S+?/(\S+)  ", text, flags=re.M)}


@pytest.mark.slow
def test_ci_publishes_and_people_read(machines):
    ci, person = machines
    ci.environment["CI"] = "true"
    reported = ci.run("apply", RECIPE).stderr
    assert reported.count("published") == 9
    assert verdicts(person.run("plan", RECIPE).stdout)["assemble"] == "pull"
    done = person.run("apply", RECIPE, "--json").stdout
    events = [json.loads(line) for line in done.splitlines()]
    assert not [event for event in events if event["event"] in ("finished", "pushed")]
    assert {e["label"].split("/")[1] for e in events if e["event"] == "pulled"} == {"assemble", "verify"}
    assert (person.root / "build" / NAME / "result.json").read_bytes() == (
        ci.root / "build" / NAME / "result.json"
    ).read_bytes()
    assert "everything is up to date" in person.run("apply", RECIPE).stderr
    person.run("apply", RECIPE, "--set", "engine.quantization=none")
    assert "to run" in ci.run("plan", RECIPE, "--set", "engine.quantization=none").stdout


def test_disabled_shared_store_is_not_contacted(machines):
    ci, person = machines
    ci.environment["MMBUILD_PUSH"] = "always"
    ci.run("apply", RECIPE)
    person.environment["MMBUILD_REMOTE"] = "off"
    assert set(verdicts(person.run("plan", RECIPE).stdout).values()) == {"run"}


@pytest.mark.slow
def test_push_uploads_earlier_builds_and_pull_prepares_an_apply(machines, shared):
    one, other = machines
    one.run("apply", RECIPE)
    said = one.run("cache", "push", "--remote", shared).stderr
    assert said.count("published") == 9
    assert "9 results" in said
    assert one.run("cache", "push", RECIPE).stderr.count("already there") == 9
    assert "left for apply: 2 to restore, 7 up to date" in other.run("cache", "pull", RECIPE).stderr
    other.environment["MMBUILD_REMOTE"] = "off"
    assert "done in" in other.run("apply", RECIPE).stderr


@pytest.mark.slow
def test_apply_counts_what_it_pulled(machines):
    one, other = machines
    one.environment["MMBUILD_PUSH"] = "always"
    assert re.search(r"^done in [\d.]+ s: 9 ran, 0 reused$", one.run("apply", RECIPE).stderr, flags=re.M)
    said = other.run("apply", RECIPE).stderr
    assert re.search(r"^done in [\d.]+ s: 0 ran, 0 reused, 2 pulled$", said, flags=re.M)


@pytest.mark.slow
def test_gc_of_the_shared_store_requires_a_limit_and_keeps_named_builds(machines, shared, tmp_path):
    one, _ = machines
    one.environment["MMBUILD_PUSH"] = "always"
    one.run("apply", RECIPE)
    assert "needs --older-than or --max-size" in one.run("cache", "gc", "--remote", status=2).stderr
    assert "freed 0 B" in one.run("cache", "gc", "--remote", "--max-size", "0").stderr
    assert one.run("cache", "gc", "--older-than", "0s", "--remote").stdout == ""
    shutil.rmtree(one.root / "build")
    dry = one.run("cache", "gc", "--remote", shared, "--max-size", "0", "--dry-run")
    assert len(dry.stdout.splitlines()) == 9
    assert "9 artifacts stay" not in dry.stderr
    one.run("cache", "gc", "--remote", "--max-size", "0")
    left = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["exclusive"]


def test_key_is_readable_only_by_its_owner_and_never_overwrites_a_file(machines, tmp_path):
    one, _ = machines
    public = one.run("cache", "keygen", tmp_path / "key.pem").stdout.strip()
    assert re.fullmatch(r"ed25519:[A-Za-z0-9+/]{43}=", public)
    assert os.stat(tmp_path / "key.pem").st_mode & 0o777 == 0o600
    assert "[MM825]" in one.run("cache", "keygen", tmp_path / "key.pem", status=1).stderr


def test_shared_store_commands_report_that_none_is_configured(tmp_path):
    project = Project(tmp_path)
    project.environment["MMBUILD_CONFIG"] = str(tmp_path / "none.yaml")
    for words in (("push",), ("pull", RECIPE), ("gc", "--remote", "--max-size", "1GB")):
        said = project.run("cache", *words, status=1).stderr
        assert "no shared store is configured [MM820]" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store: {remote: /srv/x}", "MM1"),
        ("store: {remote: 'file:///x', push: sometimes}", "push"),
        ("store: {trusted_keys: [abc]}", "is not a public key"),
        ("store: {remot: 'file:///x'}", "did you mean: remote"),
    ],
)
def test_configuration_errors_are_reported_with_their_location(machines, tmp_path, text, said):
    one, _ = machines
    (tmp_path / "one.yaml").write_text(text)
    reported = one.run("plan", RECIPE, status=1).stderr
    assert "one.yaml:1:" in reported
    assert said in reported
