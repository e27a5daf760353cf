"""What an attack on 9d5f9bf found, through the command line alone; each of these fails there."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.projects.forked import run_forked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "project-9d5f9bf.tar.xz"
SECONDS = 60
"""A command that takes longer waits for something that never comes. Most of them take one second."""

RECIPE = """\
version: 1
name: small
model:
  family: llava
  source: model
engine:
  backend: torch
  dtype: float32
  max_batch_size: 2
  max_input_len: 128
  max_output_len: 16
"""


class Project:
    """A project with a recipe and a model; its steps write what they were given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "examples" / "models" / "llava-shapes", root / "model")
        (root / "mmbuild.yaml").touch()
        (root / "recipe.yaml").write_text(RECIPE)

    def __call__(self, *arguments, **options):
        environment = {
            **os.environ,
            "MMBUILD_STORE": str(self.root / "store"),
            "MMBUILD_STEPS": "support.steps.recipe_steps:TABLE",
            "MMBUILD_REMOTE": "off",
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
            "NO_COLOR": "1",
            **options.pop("environment", {}),
        }
        if not options:
            done = run_forked([str(argument) for argument in arguments], self.root, environment, SECONDS)
            return self._checked(done, done.stdout + done.stderr)
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        if "input" in options:
            del options["stdin"]
        done = subprocess.run(
            [sys.executable, "-m", "mmbuild", *map(str, arguments)],
            cwd=self.root,
            env=environment,
            timeout=SECONDS,
            check=False,
            **options,
        )
        printed = (stream or b"" for stream in (done.stdout, done.stderr))
        return self._checked(done, b"".join(printed).decode(errors="replace"))

    def _checked(self, done, text):
        done.text = text
        assert "Traceback" not in done.text
        assert "bug in mmbuild" not in done.text
        return done

    def refused(self, *arguments, code=None, **options):
        """A coded error, not a wrong command line."""
        done = self(*arguments, **options)
        assert done.returncode == 1, done.text
        assert f"[{code or 'MM'}" in done.text, done.text
        return done

    def apply(self, **options):
        done = self("apply", "recipe.yaml", "--ignore-estimates", **options)
        assert done.returncode == 0, done.text
        return done

    def engine(self):
        """The contents of the engine directory, without what names the machine and the time."""
        build = self.root / "build" / "small"
        files = [path for path in build.rglob("*") if path.is_file() and path.name != "manifest.json"]
        return {str(path.relative_to(build)): path.read_bytes() for path in files}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def old_engine(project):
    """The engine of the fixture, which answers."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(project.root / "old", filter="data")
    shutil.copytree(project.root / "old" / "build" / "old", project.root / "engine")
    return project.root / "engine"


def ask(project, picture="old/picture.png", prompt="what ?", **options):
    return project("run", "engine", "--image", picture, "--prompt", prompt, **options)


def marking(directory, name):
    """A program that leaves a mark when it is run; the mark."""
    mark = directory / "executed"
    program = directory / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\ncat >/dev/null\n")
    program.chmod(0o755)
    return mark


# A: code runs, secrets leave


@pytest.mark.usefixtures("old_engine")
def test_postscript_in_a_picture_is_not_run(project):
    mark = marking(project.root, "gs")
    (project.root / "evil.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    path = f"{project.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = ask(project, "evil.png", environment={"PATH": path})
    assert not mark.exists()
    assert done.returncode == 1


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "tokenizer_config.json", "chat_template.jinja"])
def test_a_link_of_a_model_does_not_carry_off_a_file_from_outside(project, tmp_path_factory, name):
    secret = tmp_path_factory.mktemp("home") / "secret"
    secret.write_text("{}")
    (project.root / "model" / name).unlink(missing_ok=True)
    (project.root / "model" / name).symlink_to(secret)
    done = project.refused("plan", "recipe.yaml", code="MM747")
    assert name in done.text
    assert "MM747" not in project("plan", "recipe.yaml", "--allow-outside").text


def test_code_of_a_processor_is_neither_run_nor_prompted_for(project, old_engine):
    mark = project.root / "executed"
    for name in ("processor_config.json", "tokenizer_config.json"):
        path = old_engine / "processor" / name
        fields = json.loads(path.read_text())
        fields |= {"auto_map": {"AutoProcessor": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}}
        for key in ("processor_class", "tokenizer_class"):
            fields[key] = "Own"
        path.chmod(0o644)
        path.write_text(json.dumps(fields))
    (old_engine / "processor" / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    done = ask(project, input=b"y\ny\n")
    assert not mark.exists()
    assert "[y/N]" not in done.text


def test_help_of_run_says_that_an_engine_is_code(project):
    assert "executes" in project("run", "--help").text


# B: wrong results that stay


def test_a_byte_changed_in_a_build_is_repaired(project):
    project.apply()
    clean = project.engine()
    for name in clean:
        path = project.root / "build" / "small" / name
        path.chmod(0o644)
        found = path.stat()
        with open(path, "r+b") as file:
            file.write(b"#")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    project("cache", "verify")
    project.apply()
    assert project.engine() == clean


def test_what_was_built_from_a_damaged_input_is_built_again(project):
    quantized = RECIPE + "  quantization: int8\n"
    (project.root / "recipe.yaml").write_text(quantized)
    project.apply()
    clean = project.engine()
    (project.root / "recipe.yaml").write_text(RECIPE)
    shutil.rmtree(project.root / "store")
    project.apply()
    damaged = 0
    for path in sorted((project.root / "store" / "objects").glob("*/*")):
        text = path.read_bytes()
        if b'"configs"' in text:  # of a download, or of what was made from one
            found = path.stat()
            path.chmod(0o644)
            path.write_bytes(text.replace(b'"kind": "path"', b'"kind": "PATH"'))
            path.chmod(0o444)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
            damaged += path.read_bytes() != text
    assert damaged
    (project.root / "recipe.yaml").write_text(quantized)
    project("apply", "recipe.yaml", "--ignore-estimates")  # consumes the damaged input, or notices it
    project("cache", "verify")
    project.apply()
    assert project.engine() == clean


def test_a_digit_flipped_in_the_plan_cache_builds_nothing_wrong(project):
    os.utime(project.root / "recipe.yaml", (1, 1))
    assert project("plan", "recipe.yaml").returncode == 0
    changed = 0
    for path in (project.root / "store" / "plans").iterdir():
        text = path.read_text()
        path.write_text(text.replace('"max_output_len":16', '"max_output_len":61'))
        changed += path.read_text() != text
    project.apply()
    assert b"61" not in b"".join(project.engine().values())
    assert changed or not list((project.root / "store" / "plans").iterdir())


def test_an_engine_without_a_manifest_does_not_answer(project, old_engine):
    (old_engine / "manifest.json").unlink()
    done = ask(project)
    assert done.returncode == 1
    assert "[MM760]" in done.text


def test_integers_where_weights_belong_are_refused(project):
    path = project.root / "model" / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"dtype":"F16"', b'"dtype":"I16"', 1))
    assert path.read_bytes() != data
    project.refused("validate", "recipe.yaml", code="MM749")


# C: data loss


@pytest.mark.parametrize("name", ["staging", "trees", "locks", "logs", "plans"])
def test_a_link_in_the_place_of_a_directory_of_the_store_deletes_nothing(project, tmp_path_factory, name):
    project.apply()
    victim = tmp_path_factory.mktemp("victim")
    (victim / "thesis").mkdir()
    (victim / "thesis" / "chapter").write_text("one")
    old = victim / "old"
    old.write_text("kept")
    os.utime(old, (1, 1))
    shutil.rmtree(project.root / "store" / name)
    (project.root / "store" / name).symlink_to(victim)
    for arguments in (("cache", "verify"), ("cache", "gc"), ("apply", "recipe.yaml")):
        assert project(*arguments).returncode == 1
    assert (victim / "thesis" / "chapter").read_text() == "one"
    assert old.read_text() == "kept"


def test_a_link_in_the_place_of_the_journal_is_not_appended_to(project, tmp_path):
    (tmp_path / "victim").write_text("mine\n")
    project("plan", "recipe.yaml")
    (project.root / "store" / "journal.jsonl").unlink(missing_ok=True)
    (project.root / "store" / "journal.jsonl").symlink_to(tmp_path / "victim")
    assert project("apply", "recipe.yaml").returncode == 1
    assert (tmp_path / "victim").read_text() == "mine\n"


# D: hangs and exhaustion


@pytest.mark.parametrize(
    "name",
    ["base.yaml", "model/config.json", "model/tokenizer.json", "model/chat_template.jinja", "picture.png"],
)
def test_a_pipe_is_refused_at_once(project, name):
    (project.root / "recipe.yaml").write_text(
        RECIPE + "extends: base.yaml\nverify: {images: [picture.png], prompts: [what]}\n"
    )
    (project.root / "base.yaml").write_text("version: 1\n")
    shutil.copy(ROOT / "examples" / "pictures" / "three-red-stars.png", project.root / "picture.png")
    assert project("validate", "recipe.yaml").returncode == 0
    (project.root / name).unlink()
    os.mkfifo(project.root / name)
    assert Path(name).name in project.refused("validate", "recipe.yaml").text


def test_weights_without_an_end_are_refused(project):
    (project.root / "model" / "model.safetensors").unlink()
    (project.root / "model" / "model.safetensors").symlink_to("/dev/zero")
    project.refused("plan", "recipe.yaml")


@pytest.mark.parametrize("name", ["journal.jsonl", "stat.db", "VERSION", "history.jsonl"])
def test_a_pipe_among_the_files_of_the_store_is_refused_at_once(project, name):
    project("plan", "recipe.yaml")
    (project.root / "store" / name).unlink(missing_ok=True)
    os.mkfifo(project.root / "store" / name)
    project.refused("plan", "recipe.yaml")


# E: what was called a bug


@pytest.mark.parametrize(
    ("key", "value"),
    [("dtype", "float17"), ("num_hidden_layers", 10**9), ("vocab_size", None), ("head_size", [])],
)
def test_an_engine_with_an_odd_description_is_refused(project, old_engine, key, value):
    description = json.loads((old_engine / "engine.json").read_text())
    description["llm"][key] = value
    (old_engine / "engine.json").chmod(0o644)
    (old_engine / "engine.json").write_text(json.dumps(description))
    done = ask(project)
    assert done.returncode == 1
    assert "engine.json" in done.text


@pytest.mark.parametrize("kind", ["directory", "dangling", "loop", "deep"])
def test_verify_takes_anything_among_the_objects(project, kind):
    project.apply()
    path = next((project.root / "store" / "objects").iterdir()) / ("0" * 64)
    if kind == "directory":
        path.mkdir()
    elif kind == "deep":
        (project.root / "store" / "manifests" / f"{'0' * 64}.json").write_text("[" * 100_000)
    else:
        path.symlink_to(path if kind == "loop" else "nowhere")
    assert project("cache", "verify").returncode == 1
    assert project("cache", "verify").returncode == 0
    project.apply()


def test_one_deep_line_of_the_journal_costs_itself(project):
    project.apply()
    with open(project.root / "store" / "journal.jsonl", "a") as journal:
        journal.write("[" * 100_000 + "\n")
    assert "0 ran" in project.apply().text or "up to date" in project.apply().text


def test_a_copied_store_without_its_empty_directories_works(project):
    project.apply()
    for name in ("locks", "staging"):
        shutil.rmtree(project.root / "store" / name)
    project.apply()
    assert project("cache", "verify").returncode == 0


def test_numbers_that_are_none_in_a_config_are_refused(project):
    path = project.root / "model" / "config.json"
    path.write_text(
        path.read_text().replace('"projector_hidden_act"', '"x": Infinity, "projector_hidden_act"')
    )
    assert "Infinity" in project.refused("validate", "recipe.yaml").text


def test_a_long_chain_of_recipes_is_refused(project):
    for number in range(400):
        (project.root / f"r{number}.yaml").write_text(f"version: 1\nextends: r{number + 1}.yaml\n")
    (project.root / "r400.yaml").write_text(RECIPE)
    project.refused("validate", "r0.yaml")


def test_a_long_key_of_the_command_line_is_refused(project):
    assert project("validate", "recipe.yaml", "--set", "a" + ".b" * 5000 + "=1").returncode in (1, 2)


def test_a_name_longer_than_a_file_name_is_refused_before_anything_is_built(project):
    axes = "".join(
        f"  {'x' * 90}{key}: {{key: engine.{key}, values: [1]}}\n"
        for key in ("max_batch_size", "max_beam_width")
    )
    (project.root / "recipe.yaml").write_text(
        RECIPE.replace("name: small", f"name: {'n' * 90}") + "matrix:\n" + axes
    )
    project.refused("validate", "recipe.yaml", code="MM752")


def test_a_prompt_that_is_not_text_is_refused(project):
    done = ask(project, prompt=os.fsdecode(b"what \xff ?"))
    assert done.returncode == 1
    assert "[MM785]" in done.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_reported(project):
    with open("/dev/full", "wb") as full:
        done = project("plan", "recipe.yaml", stdout=full)
    assert done.returncode == 1
    assert "[MM780]" in done.text


def test_an_unwritable_home_is_reported(project):
    done = project(
        "plan", "recipe.yaml", environment={"HOME": "/proc", "MMBUILD_STORE": "", "XDG_CACHE_HOME": ""}
    )
    assert done.returncode == 1
    assert "[MM301]" in done.text


# F: small


def test_no_escape_sequence_of_a_recipe_reaches_the_terminal(project):
    text = RECIPE.replace("family: llava", 'family: "\\e[2Jx\\r\\n::error::y\\u202e"')
    (project.root / "recipe.yaml").write_text(text)
    done = project.refused("validate", "recipe.yaml")
    assert not set("\x1b\r\u202e") & set(done.text)


def test_a_recipe_in_flow_style_applies(project):
    data = {"version": 1, "name": "small", "model": {"family": "llava", "source": "model"}}
    engine = {"backend": "torch", "dtype": "float32", "max_batch_size": 2, "max_input_len": 128}
    (project.root / "recipe.yaml").write_text(json.dumps(data | {"engine": engine | {"max_output_len": 16}}))
    project.apply()


_PUBLIC = "source: hf://llava-hf/llava-1.5-7b-hf\n  revision: "


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE.replace("source: model", f"{_PUBLIC}'-f'").replace("len: 128", "len: 1024"),
        RECIPE.replace("version: 1", "version: true"),
    ],
    ids=["revision", "version"],
)
def test_values_that_mean_something_else_are_refused(project, recipe):
    (project.root / "recipe.yaml").write_text(recipe)
    assert "MM1" in project.refused("validate", "recipe.yaml", "--offline").text


def test_a_byte_order_mark_is_found_by_validate(project):
    path = project.root / "model" / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    project.refused("validate", "recipe.yaml")


def test_locks_do_not_pile_up(project):
    left = []
    for length in (16, 17):
        (project.root / "recipe.yaml").write_text(RECIPE.replace("len: 16", f"len: {length}"))
        project.apply()
        names = [path.name for path in (project.root / "store" / "locks").iterdir()]
        left.append(
            sorted(name for name in names if not name.startswith("publish-"))
        )  # of which there are 256
    assert left[0] == left[1]
