"""Steps of backend tensorrt-llm with stand-in commands: runs the actions of every family and version in order."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.engine_dir import description as layout
from mmbuild.backends.tensorrt_llm.lower import Environment, lower_toolchain
from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.steps.context import StepContext
from mmbuild.core.steps.registry import load as load_step
from mmbuild.models.sources.config import read_config
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from mmbuild.steps.table import STEPS
from support.marks import slow_except
from support.toolchain.cases import RECIPES, load
from support.toolchain.host import environment

CODE = {
    "llava/model/llava_arch.py": "vision_tower = build(delay_load=True)\n"
    "        vision_tower = self.get_vision_tower()\n",
    "llava/model/language_model/llava_llama.py": "seqlens_in_batch=sorted_seqlens_in_batch,\n",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Environment]:
    """One environment for each version."""
    root = tmp_path_factory.mktemp("toolchains")
    made = {}
    for version in SUPPORTED:
        entry = environment(version, root / version)
        made[version] = Environment(json.dumps(entry), {"tensorrt": "10.0"})
    return made


@pytest.fixture(scope="module")
def vila_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VILA's repository, with another commit after the one tagged `old`."""
    root = tmp_path_factory.mktemp("vila-code")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for name, text in CODE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "old"], check=True)
    subprocess.run([*git, "tag", "old"], check=True)
    for name in CODE:
        (root / name).write_text("# moved on\n", "utf-8")
    subprocess.run([*git, "commit", "-q", "-am", "new"], check=True)
    return root


@pytest.fixture(autouse=True)
def redirected(vila_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect git from GitHub to the local repository."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{vila_code.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/Efficient-Large-Model/VILA.git")


def cases() -> Iterator[tuple[str, str]]:
    # Up to 0.10 flan-t5 needs a separate recipe for its text model.
    for version in SUPPORTED:
        new = version in ("0.12.0", "1.2")
        vila = "vila1.5-3b-fp16" if new else "vila-7b-fp16"
        for model in ("flan-t5-xl", "opt-2.7b", "llava-fp16", "nougat-base", vila):
            yield version, model


@cache
def variant(model: str, version: str, *more: str) -> ResolvedRecipe:
    code = "{source: git+https://github.com/Efficient-Large-Model/VILA.git, revision: old}"
    pinned = (f"model.code={code}",) if model.startswith("vila") else ()
    short = ("engine.max_input_len=500",) if model == "flan-t5-xl" and version == "0.12.0" else ()
    return load(
        model,
        "engine.backend=tensorrt-llm",
        f"engine.tensorrt_llm.toolchain='{version}'",
        *short,
        *pinned,
        *more,
    )[0]


def lowered(recipe: ResolvedRecipe, found: Environment | None, sm: int | None = 90) -> RecipeGraph:
    def digest(path: Path) -> str:
        return f"digest of {path.name}"

    return lower_toolchain(recipe, PlanContext({"sm": sm}, digest, offline=True), found)


class Executed:
    """Runs actions one after the other, each in its own directory; keeps outputs by definition key."""

    def __init__(self, recipe: ResolvedRecipe, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipe, self.root, self.monkeypatch = recipe, root, monkeypatch
        self.outputs: dict[str, Path] = {}

    def run(self, action: Action) -> Path:
        place = self.root / action.label.rpartition("/")[2]
        out = place / "out"
        out.mkdir(parents=True)
        self.outputs[action.definition_key] = out
        if action.step == "download":
            self._fetch(out, action)
            return out
        self.monkeypatch.chdir(place)
        load_step(STEPS[action.step])(
            StepContext(
                params=action.params,
                out=Path("out"),
                inputs={name: self.outputs[key] for name, key in action.inputs.items()},
                locators=action.locators,
                target=action.target,
            )
        )
        return out

    def _fetch(self, out: Path, action: Action) -> None:
        name = action.params["source"]
        model = self.recipe.recipe.model
        source = model if name == "model" else model.vision
        assert source is not None
        config = read_config(source.source, source.revision, RECIPES, offline=True)
        (out / "config.json").write_text(json.dumps(dict(config.config)), "utf-8")


@pytest.mark.parametrize(
    ("version", "model"), slow_except(cases(), *(case for case in cases() if case[0] in ("0.9.0", "1.2")))
)
def test_a_recipe_is_built_and_run(
    version: str,
    model: str,
    installed: Mapping[str, Environment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = variant(model, version)
    graph = lowered(recipe, installed[version])
    executed = Executed(recipe, tmp_path, monkeypatch)
    labels = [executed.run(action).parent.name for action in graph.actions]
    assert labels[-2:] == ["assemble", "verify"] or labels[-1] == "assemble"
    engine = executed.outputs[graph.engine]
    description = layout.read(engine)
    assert description.backend == "tensorrt-llm"
    assert description.toolchain == {"tensorrt-llm": version, "tensorrt": "10.0"}
    assert description.target["sm"] == 90
    assert (engine / "model" / "config.json").is_file()
    assert list((engine / "llm").rglob("*.engine"))
    assert list((engine / "visual").rglob("*.engine"))
    for action in graph.actions:
        if action.label.endswith("/verify"):
            report = json.loads((executed.outputs[action.definition_key] / "report.json").read_text("utf-8"))
            assert report["summary"]["compared"] is False
            assert report["questions"][0]["answer"]


def failing(
    recipe: ResolvedRecipe,
    environment: Environment,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    last: str,
) -> MmbuildError:
    """The error of action ``last``, whose commands see ``variables``; all actions before it succeed."""
    entry = json.loads(environment.locator)
    executed = Executed(recipe, root, monkeypatch)
    for action in lowered(recipe, environment).actions:
        if action.label.endswith(f"/{last}"):
            reported = json.dumps({**entry, "variables": dict(variables)})
            with pytest.raises(MmbuildError) as caught:
                executed.run(replace(action, locators={**action.locators, "environment": reported}))
            return caught.value
        executed.run(action)
    raise AssertionError(last)


@pytest.mark.parametrize(
    ("fault", "step", "code"),
    [
        ("missing_rank", "convert", "MM650"),
        ("stale_rank", "build_llm", "MM651"),
        ("table", "build_llm", "MM653"),
        ("batch", "build_llm", "MM654"),
        ("ranks", "convert", "MM656"),
        ("unquantized", "convert", "MM657"),
        ("onnx", "build_visual", "MM675"),
    ],
)
def test_a_command_with_wrong_output_fails_its_action(
    fault: str,
    step: str,
    code: str,
    installed: Mapping[str, Environment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = variant("llava-fp16", "0.10.0", "engine.quantization=int8", "engine.tensorrt_llm.fused_mlp=auto")
    error = failing(recipe, installed["0.10.0"], tmp_path, monkeypatch, {"STANDIN_FAULTS": fault}, step)
    assert error.code == code
    assert "exited with status 0" in error.message
    assert "exited with status 0" in error.message
    assert error.hint


def test_an_engine_for_two_ranks_runs_on_two(
    installed: Mapping[str, Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in runner rejects any other number of ranks, like upstream's."""
    recipe = variant("llava-fp16", "1.2", "engine.tensor_parallel=2", "verify={prompts: [why]}")
    executed = Executed(recipe, tmp_path, monkeypatch)
    graph = lowered(recipe, installed["1.2"])
    outputs = [executed.run(action) for action in graph.actions]
    report = json.loads((outputs[-1] / "report.json").read_text("utf-8"))
    assert [entry["prompt"] for entry in report["questions"]] == ["why"]


def test_changed_upstream_code_stops_the_build_before_anything_is_converted(
    installed: Mapping[str, Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = variant("vila-7b-fp16", "0.9.0", "model.code=null")
    error = failing(recipe, installed["0.9.0"], tmp_path, monkeypatch, {}, "prepare")
    assert error.code == "MM701"


def test_commands_see_the_model_under_a_neutral_name(
    installed: Mapping[str, Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store or home with `vila` in its path must not turn a LLaVA model into VILA: all arguments are relative."""
    root = tmp_path / "avila"
    root.mkdir()
    recipe = variant("llava-fp16", "0.9.0")
    executed = Executed(recipe, root, monkeypatch)
    for action in lowered(recipe, installed["0.9.0"]).actions:
        for command in action.params.get("commands", ()):
            assert not any("vila" in argument or argument.startswith("/") for argument in command["argv"])
        executed.run(action)
