"""What a lock contains, what it keeps, and which differences are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from blake3 import blake3
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.pins import Pins
from mmbuild.core.store.layout import Store, open_store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.team.lockfile import apply, make
from mmbuild.team.lockfile.compare import differences
from mmbuild.team.lockfile.model import LockError, Lockfile, lock_path, read_lock, write_lock
from support.projects.demo_project import REPOSITORY
from support.servers.hub import Hub, commit_id, digest, model_files, running

FIRST, SECOND = commit_id(1), commit_id(2)
MODEL = REPOSITORY / "examples/models/llava-shapes"
ASKED = PlanOptions()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A team's repository with the demo recipes; the recipe."""
    return clone(tmp_path / "project")


def clone(root: Path) -> Path:
    shutil.copytree(REPOSITORY / "recipes/demo", root / "recipes/demo")
    shutil.copytree(MODEL, root / "examples/models/llava-shapes")
    shutil.copytree(REPOSITORY / "examples/pictures", root / "examples/pictures")
    (root / "mmbuild.yaml").touch()
    return root / "recipes/demo/llava-int4.yaml"


def lock(recipe: Path, store: Store, *update: str) -> Lockfile:
    """``mmbuild lock``."""
    path = lock_path(recipe)
    known = read_lock(path) if path.exists() else None
    write_lock(path, make.make(recipe, store, ASKED, known, update).lock)
    return read_lock(path)


def refusal_text(recipe: Path, store: Store) -> str:
    """What a locked plan refuses with MM802."""
    with pytest.raises(LockError) as caught:
        apply.plan_locked(recipe, store, ASKED)
    assert caught.value.code == "MM802"
    return caught.value.message


def other_versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """An environment with other packages: in keys (metadata) and outside of keys (the host's list)."""
    from mmbuild.backends.lowering import local_environment

    real, listed = local_environment._installed, make.host.installed_versions
    monkeypatch.setattr(local_environment, "_installed", lambda name: versions.get(name) or real(name))
    monkeypatch.setattr(make.host, "installed_versions", lambda *names: {**listed(*names), **versions})


def test_a_lock_names_every_file_that_is_read_by_its_digest(project: Path, store: Store) -> None:
    made = lock(project, store)
    base = project.parent
    assert {name for name in made.files if name.endswith(".safetensors")}
    for name, found in made.files.items():
        assert blake3((base / name).read_bytes()).hexdigest() == found
    assert set(made.recipe) == {"llava-int4.yaml", "llava.yaml"}
    assert made.environments["torch"]["packages"]["transformers"]


def test_two_clones_with_one_lock_plan_the_same_hash(project: Path, store: Store, tmp_path: Path) -> None:
    here = lock(project, store)
    other = clone(tmp_path / "elsewhere/deeper")
    shutil.copy(lock_path(project), lock_path(other))
    there = apply.plan_locked(other, open_store(tmp_path / "other"), ASKED)
    assert there.lock == here
    assert str(tmp_path) not in lock_path(project).read_text()


def test_the_locked_target_replaces_this_host(project, store, monkeypatch) -> None:
    """The plan hash of a lock is the same on a host of another kind; applying there is refused."""
    made = lock(project, store)
    monkeypatch.setattr(make.host, "default_target", lambda: {"device": "cpu", "sm": None, "isa": "neon"})
    _, apart = apply.check(project, store, ASKED)
    assert apart == ()
    with pytest.raises(LockError) as caught:
        apply.plan_locked(project, store, ASKED)
    assert caught.value.code == "MM803"
    planned = apply.plan_locked(project, store, ASKED, builds=False)
    assert planned.lock == made
    assert planned.note == (
        f"note: this machine can plan with `{lock_path(project)}` but not apply it: {caught.value.message}"
    )
    moved = lock(project, store, "target")
    assert moved.target["isa"] == "neon"
    assert moved.plan != made.plan


def test_comments_and_order_of_a_recipe_change_nothing(project: Path, store: Store) -> None:
    lock(project, store)
    data = yaml.safe_load(project.read_text())
    project.write_text("# said anew\n" + yaml.safe_dump(data, sort_keys=True))
    assert apply.check(project, store, ASKED)[1] == ()


def test_a_changed_recipe_is_refused_and_reported_by_its_file(project: Path, store: Store) -> None:
    lock(project, store)
    project.write_text(project.read_text().replace("int4", "int8"))
    message = refusal_text(project, store)
    assert "recipe: llava-int4.yaml" in message
    assert "plan" not in message.split("differs from")[1]


def test_a_changed_input_is_refused_and_reported_by_its_file(project: Path, store: Store) -> None:
    lock(project, store)
    picture = next((project.parents[2] / "examples/pictures").glob("*stars.png"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert f"files: ../../examples/pictures/{picture.name}: locked" in refusal_text(project, store)


def test_other_versions_are_refused_for_applying_and_fine_for_checking(project, store, monkeypatch) -> None:
    made = lock(project, store)
    other_versions(monkeypatch, torch="9.9.9", tokenizers="0.0.1")
    assert apply.check(project, store, ASKED)[1] == ()
    message = refusal_text(project, store)
    assert f"torch packages torch: locked {made.packages['torch']['torch']}, now 9.9.9" in message
    assert "torch packages tokenizers" in message
    assert lock(project, store) == made, "a lock keeps its versions until it is told to move on"
    moved = lock(project, store, "packages")
    assert moved.packages["torch"]["torch"] == "9.9.9"
    assert moved.plan != made.plan


def test_a_check_for_this_machine_agrees_with_a_locked_plan(project, store, monkeypatch) -> None:
    made = lock(project, store)
    other_versions(monkeypatch, torch="9.9.9")
    _, found = apply.check(project, store, ASKED, here=True)
    assert [(item.part, item.name, item.here) for item in found] == [
        ("environments", "torch packages torch", "9.9.9")
    ]
    path = lock_path(project)
    line = 1 + next(
        number
        for number, text in enumerate(path.read_text().splitlines())
        if text.strip() == f"torch: {made.packages['torch']['torch']}"
    )
    with pytest.raises(LockError) as caught:
        apply.plan_locked(project, store, ASKED, builds=False)
    assert caught.value.message == (
        f"the current state differs from `{path}`:\n"
        f"  {path}:{line}: environments: torch packages torch: "
        f"locked {made.packages['torch']['torch']}, now 9.9.9"
    )
    assert caught.value.hint == (
        "install the locked versions in this environment, or update the lock: "
        f"`mmbuild lock --update packages {project}`"
    )


def test_a_lock_of_a_torch_that_is_too_old_names_itself_and_can_be_updated(project, store) -> None:
    made = lock(project, store)
    path, installed = lock_path(project), made.packages["torch"]["torch"]
    path.write_text(path.read_text().replace(f" torch: {installed}", " torch: 2.1.0"))
    for refused in (
        apply.check(project, store, ASKED, here=True)[1],
        differences(read_lock(path), made),
    ):
        assert [str(item) for item in refused] == [
            f"environments: torch packages torch: locked 2.1.0, now {installed}"
        ]
    with pytest.raises(LockError, match=r"torch packages torch: locked 2\.1\.0, now") as caught:
        apply.plan_locked(project, store, ASKED)
    assert caught.value.code == "MM802"
    assert lock(project, store).packages["torch"]["torch"] == "2.1.0", "kept until it is updated"
    assert lock(project, store, "packages") == made


def test_a_changed_recipe_is_answered_with_the_command_that_names_its_keys(project, store) -> None:
    lock(project, store)
    project.write_text(project.read_text().replace("int4", "int8"))
    with pytest.raises(LockError) as caught:
        apply.plan_locked(project, store, ASKED)
    assert caught.value.hint == (
        f"`mmbuild why {project}` names the changed keys, and `mmbuild lock {project}` updates the lock; "
        "review its changes and commit them"
    )


def test_a_mmbuild_that_plans_other_actions_is_reported_by_the_hash_alone(project, store) -> None:
    made = lock(project, store)
    altered = {**made.variants, "llava-shapes-int4": "0" * 64}
    found = differences(Lockfile(**{**vars_of(made), "variants": altered}), made)
    assert [(item.part, item.name) for item in found] == [("variants", "llava-shapes-int4")]


def vars_of(lock: Lockfile) -> dict:
    return {name: getattr(lock, name) for name in lock.__dataclass_fields__}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the demo model at ``main``, and a later commit."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    files = model_files(MODEL)
    later = {**files, "model.safetensors": files["model.safetensors"] + b"\0"}
    with running(Hub(commits={FIRST: files, SECOND: later}, branches={"main": FIRST})) as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        template = state.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield state


@pytest.fixture
def from_hub(project: Path, hub: Hub) -> Path:
    """The recipe with its model on the hub, at the branch ``main``."""
    data = yaml.safe_load((project.parent / "llava.yaml").read_text())
    data["model"]["source"] = f"hf://{hub.repo}"
    (project.parent / "llava.yaml").write_text(yaml.safe_dump(data))
    return project


def test_a_branch_is_locked_to_its_commit_with_the_hubs_own_digests(from_hub, hub, store) -> None:
    made = lock(from_hub, store)
    known = made.models[f"hf://{hub.repo}"]["main"]
    assert known["commit"] == FIRST
    for name, found in known["files"].items():
        content = hub.commits[FIRST][name]
        kind = "sha256" if name.endswith(".safetensors") else "git"
        assert found == {kind: digest(name, content), "size": len(content)}
    weights = hub.commits[FIRST]["model.safetensors"]
    assert known["files"]["model.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_branch_that_moved_builds_what_is_locked_until_the_model_is_updated(from_hub, hub, store) -> None:
    made = lock(from_hub, store)
    hub.branches["main"] = SECOND
    (download,) = (
        action
        for graph in apply.plan_locked(from_hub, store, ASKED).graphs
        for action in graph.actions
        if action.step == "download"
    )
    assert download.params["commit"] == FIRST
    assert lock(from_hub, store) == made
    moved = lock(from_hub, store, "model")
    assert moved.models[f"hf://{hub.repo}"]["main"]["commit"] == SECOND
    assert {item.part for item in differences(made, moved)} == {"models"}
    assert moved.plan != made.plan


def test_a_branch_that_is_gone_builds_what_is_locked(from_hub, hub, store) -> None:
    made = lock(from_hub, store)
    hub.branches.clear()
    assert apply.plan_locked(from_hub, store, ASKED).lock == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lock: 2\n",
        "[1, 2]\n",
        "lock: 1\ntarget: 3\nrecipe: {}\n",
        "lock: 1\nrecipe: {}\n",
        "lock: 1\nrecipe: {}\ntarget: {device: cpu, isa: avx2, sm: null}\nmodels: {a: {main: 3}}\n",
        "lock: 1\nrecipe: {}\ntarget: {device: cpu, isa: avx2, sm: null}\nnew: 1\n",
        "<<<<<<< ours\nlock: 1\n=======\nlock: 1\n>>>>>>> theirs\n",
        "lock: 1\nrecipe: !!python/object/apply:os.system [id]\n",
    ],
)
def test_a_damaged_lock_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.lock"
    path.write_text(text)
    with pytest.raises(LockError) as caught:
        read_lock(path)
    assert caught.value.code == "MM801"
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lock: 2\n", "newer mmbuild"),
        ("lock: 0\n", "delete it"),
        ("lock: true\n", "delete it"),
        ("lock: '1'\n", "delete it"),
        ("recipe: {}\n", "delete it"),
        ("<<<<<<< HEAD\nlock: 1\n=======\n", "take either side"),
    ],
)
def test_the_hint_of_an_unreadable_lock_is_not_to_read_it_again(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "a.lock"
    path.write_text(text)
    with pytest.raises(LockError) as caught:
        read_lock(path)
    assert hint in caught.value.hint


def test_a_missing_lock_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LockError) as caught:
        read_lock(tmp_path / "a.lock")
    assert caught.value.code == "MM800"


WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
HEX = st.text("0123456789abcdef", min_size=40, max_size=40)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
MODELS = st.dictionaries(
    WORD.map("hf://".__add__),
    st.dictionaries(WORD, st.fixed_dictionaries({"commit": HEX, "files": st.just({})})),
)


@given(files=st.dictionaries(WORD, DIGEST), models=MODELS, plan=DIGEST)
def test_what_is_written_is_read_back_and_two_writings_are_the_same(tmp_path_factory, files, models, plan):
    target = {"device": "cpu", "sm": None, "isa": "avx2"}
    one = Lockfile(target=target, recipe={"a.yaml": plan}, files=files, models=models, plan=plan)
    path = tmp_path_factory.mktemp("lock") / "a.lock"
    write_lock(path, one)
    text = path.read_bytes()
    found = read_lock(path)
    assert found == Lockfile(**{**vars_of(one), "models": models or {}, "files": files or {}})
    write_lock(path, Lockfile(**{**vars_of(found), "files": dict(reversed(files.items()))}))
    assert path.read_bytes() == text


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("target.device", 0),
        ("target.device", "tpu"),
        ("target.sm", "90"),
        ("environments.torch.packages.torch", 90),
        ("environments.torch.packages.torch", "one"),
        ("files.a", []),
        ("recipe.a", "x"),
        ("models.hf://a/b.main.commit", None),
        ("plan", {}),
        ("more", 1),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path: Path, place: str, value: object) -> None:
    digest = "0" * 64
    content: dict[str, Any] = {
        "lock": 1,
        "target": {"device": "cpu", "sm": None, "isa": None},
        "recipe": {"a": digest},
        "files": {"a": digest},
        "models": {"hf://a/b": {"main": {"commit": FIRST, "files": {}}}},
        "environments": {"torch": {"packages": {"torch": "2.13"}}},
        "plan": digest,
    }
    (tmp_path / "a.lock").write_text(json.dumps(content))
    read_lock(tmp_path / "a.lock")
    *above, last = place.split(".")
    holder = content
    for name in above:
        holder = holder[name]
    holder[last] = value
    (tmp_path / "a.lock").write_text(json.dumps(content))
    with pytest.raises(LockError) as caught:
        read_lock(tmp_path / "a.lock")
    assert caught.value.code == "MM801"
    assert last in caught.value.message


def test_pins_are_found_by_revision_and_environment() -> None:
    pins = Pins({("a/b", "main"): FIRST}, {"torch": {"torch": "1"}})
    assert pins.commit("a/b", None) == FIRST
    assert pins.package("torch") == "1"
    assert pins.package("torch", "tensorrt-llm 1.2") is None
    assert Pins().commit("a/b", None) is None


def test_an_image_is_known_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the registry where the image came from one, else of this host; none where the engine does not know it."""
    from mmbuild.backends.tensorrt_llm.container_images import image_digest
    from mmbuild.config.model import Container

    engine = tmp_path / "podman"
    engine.write_text(
        '#!/bin/sh\n[ "$1 $2" = "image inspect" ] || exit 3\ncase "$5" in\n'
        "  pulled:1) echo registry/pulled@sha256:aa; echo bb;;\n  made:1) echo; echo bb;;\n  *) exit 125;;\nesac\n"
    )
    engine.chmod(0o755)
    assert subprocess.run([engine, "run"], check=False).returncode == 3
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    expected = {"pulled:1": "sha256:aa", "made:1": "sha256:bb", "none:1": None, "x@sha256:cc": "sha256:cc"}
    for image, found in expected.items():
        assert image_digest(Container(engine="podman", image=image)) == found
