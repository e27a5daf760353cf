"""``mmbuild init`` as a user sees it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmbuild.cli import main
from mmbuild.models.families import MODULES
from mmbuild.models.sources.config import recorded_models

MODELS = Path(__file__).parents[2] / "examples" / "models"
PARTS = ("facebook/opt", "google/", "openai/")  # text models and towers, which are no models by themselves
WHOLE = [name for name in recorded_models() if not name.startswith(PARTS)]


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    return tmp_path


def init(*words: str) -> int:
    return main(["init", *words, "--offline"])


def read(path: str) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(Path(path).read_text())
    return content


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("memory", ["8", "24", "140"])
@pytest.mark.parametrize("model", WHOLE)
def test_the_recipe_of_every_recorded_model_is_valid(
    model: str, device: str, memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(model, "-o", "a.yaml", "--device", device, "--memory", memory) == 0
    assert "error" not in capsys.readouterr().err
    assert main(["validate", "a.yaml", "--offline"]) == 0
    assert read("a.yaml")["model"]["family"] in MODULES  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir()))
def test_the_recipe_of_a_directory_is_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(MODELS / name, name)
    assert init(f"./{name}", "-o", "recipes/mine.yaml", "--device", "cpu") == 0
    assert read("recipes/mine.yaml")["model"]["source"] == f"../{name}"  # type: ignore[index]
    out = capsys.readouterr()
    assert out.out == "wrote recipes/mine.yaml\n"
    assert "next: mmbuild plan recipes/mine.yaml" in out.err
    assert main(["plan", "recipes/mine.yaml", "--store", "store", "--offline"]) == 0


def test_a_model_that_does_not_fit_is_quantized_and_answers_fewer_prompts_together() -> None:
    found = []
    for memory in ("140", "24", "16", "10"):
        assert (
            init(
                "llava-hf/llava-1.5-7b-hf", "-o", "a.yaml", "--force", "--device", "cuda", "--memory", memory
            )
            == 0
        )
        engine = read("a.yaml")["engine"]
        found.append((engine["quantization"], engine["max_batch_size"]))  # type: ignore[index]
    assert found == [("none", 8), ("none", 8), ("int8", 4), ("int4", 4)]


def test_a_machine_that_is_too_small_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("llava-hf/llava-1.5-13b-hf", "-o", "a.yaml", "--device", "cuda", "--memory", "4") == 0
    assert "the smallest engine takes about" in capsys.readouterr().err
    assert read("a.yaml")["engine"]["quantization"] == "int4"  # type: ignore[index]


@pytest.mark.parametrize(
    "address",
    [
        "llava-hf/llava-1.5-7b-hf",
        "hf://llava-hf/llava-1.5-7b-hf",
        "https://huggingface.co/llava-hf/llava-1.5-7b-hf",
        "huggingface.co/llava-hf/llava-1.5-7b-hf/tree/main",
    ],
)
def test_addresses_of_the_hub_become_sources(address: str) -> None:
    assert init(address, "-o", "a.yaml") == 0
    assert read("a.yaml")["model"]["source"] == "hf://llava-hf/llava-1.5-7b-hf"  # type: ignore[index]


def test_a_revision_is_kept() -> None:
    commit = "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml", "--revision", commit) == 0
    assert read("a.yaml")["model"]["revision"] == commit  # type: ignore[index]


def test_a_tower_that_the_config_only_names_is_the_second_source() -> None:
    assert init("Efficient-Large-Model/vila-7B", "-o", "a.yaml") == 0
    vision = read("a.yaml")["model"]["vision"]  # type: ignore[index]
    assert vision == {"source": "hf://openai/clip-vit-large-patch14-336"}


def test_without_a_terminal_the_model_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 2
    assert "name a model" in capsys.readouterr().err


def test_an_existing_file_is_kept_unless_it_may_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("mine")
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml") == 1
    assert "[MM191]" in capsys.readouterr().err
    assert Path("a.yaml").read_text() == "mine"
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml", "--force") == 0
    assert Path("a.yaml").read_text() != "mine"


def test_it_is_printed_and_nothing_is_written(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "-") == 0
    assert yaml.safe_load(capsys.readouterr().out)["version"] == 1
    assert [path.name for path in room.iterdir()] == [".git"]


def test_its_place_is_the_project_s_directory_of_recipes() -> None:
    Path("recipes").mkdir()
    assert init("llava-hf/llava-1.5-7b-hf", "--device", "cuda", "--memory", "140") == 0
    assert Path("recipes/llava-1.5-7b.yaml").is_file()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2_5_vl"}, "no family builds it [MM410]"),
        ({"model_type": "llava_next", "text_config": {}}, "[MM410]"),
        ({"model_type": "llava", "text_config": {"model_type": "mistral"}}, "[MM410]"),
        ({"model_type": "llava", "quantization_config": {"quant_method": "awq"}}, "[MM710]"),
        ({"model_type": "opt"}, "is a text model, which sees nothing by itself [MM414]"),
        ({}, "[MM410]"),
    ],
)
def test_a_model_that_no_family_builds_is_refused(
    config: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(config))
    assert init("./model", "-o", "a.yaml") == 1
    assert message in capsys.readouterr().err
    assert not Path("a.yaml").exists()


def test_a_recipe_that_cannot_be_built_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    Path("kept.yaml").write_text("mine")
    for words in (("-o", "new.yaml"), ("-o", "kept.yaml", "--force")):
        assert init("Efficient-Large-Model/vila-7B", "--backend", "hf", *words) == 1
        assert "[MM880]" in capsys.readouterr().err
    assert not Path("new.yaml").exists()
    assert Path("kept.yaml").read_text() == "mine"


@pytest.mark.parametrize(("gigabytes", "verifies"), [(200, True), (20, False)])
def test_a_comparison_that_does_not_fit_is_a_comment(
    gigabytes: int, verifies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbuild.core.execution.resources.machine_memory", lambda: gigabytes * 10**9)
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml", "--device", "cuda", "--memory", "80") == 0
    assert ("verify" in read("a.yaml")) is verifies
    assert "What is in this picture?" in Path("a.yaml").read_text()
    assert main(["plan", "a.yaml", "--offline", "--store", "store", "--set", "target.sm=90"]) == 0


def test_what_comes_next_is_offline_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml") == 0
    assert "next: mmbuild plan a.yaml --offline\n" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached_leaves_the_commit_open_and_says_how_to_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmbuild.models.sources import hub

    def refuse(repo: str, *_: object, **__: object) -> str:
        raise hub.UnreachableError(f"`{repo}`: cannot reach the hub", code="MM422", hint="")

    monkeypatch.setattr(hub, "resolve_revision", refuse)
    assert main(["init", "llava-hf/llava-1.5-7b-hf", "-o", "a.yaml", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "note: the hub could not be reached" in said
    assert "next: mmbuild plan a.yaml --offline\n" in said
    assert main(["plan", "a.yaml", "--offline", "--store", "store"]) == 0


@pytest.mark.parametrize(("backend", "target"), [("hf", None), ("tensorrt-llm", {"device": "cuda"})])
def test_what_runs_on_gpus_is_not_written_for_a_machine_without_one(
    backend: str, target: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mmbuild.base.host.default_target", lambda: {"device": "cpu", "isa": "avx2", "sm": None}
    )
    words = ["llava-hf/llava-1.5-7b-hf", "--revision", "b" * 40, "-o", "a.yaml", "--backend", backend]
    assert init(*words) == 0
    recipe = read("a.yaml")
    assert recipe["engine"]["dtype"] == "float16"  # type: ignore[index]
    assert recipe.get("target") == target


def test_the_device_of_an_engine_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mmbuild.base.host.default_target", lambda: {"device": "cpu", "isa": "avx2", "sm": None}
    )
    assert init("llava-hf/llava-1.5-7b-hf", "--revision", "b" * 40, "-o", "a.yaml") == 0
    assert read("a.yaml")["engine"]["dtype"] == "float32"  # type: ignore[index]


def test_a_lock_says_what_it_could_not_pin_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml") == 0
    assert main(["lock", "a.yaml", "--offline", "--store", "store"]) == 0
    assert "`llava-hf/llava-1.5-7b-hf` is not pinned" in capsys.readouterr().err


def test_the_address_of_a_model_is_not_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "hf://llava-hf/llava-1.5-7b-hf"]) == 1
    assert "`mmbuild init hf://llava-hf/llava-1.5-7b-hf` writes a recipe for it" in capsys.readouterr().err


@pytest.mark.slow
def test_apply_offline_does_not_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a request would be refused, not forbidden
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert init("llava-hf/llava-1.5-7b-hf", "-o", "a.yaml", "--revision", "b" * 40, "--memory", "80") == 0
    words = ["apply", "a.yaml", "--offline", "--store", "store", "--ignore-estimates"]
    done = subprocess.run(
        [sys.executable, "-m", "mmbuild", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        "not complete in the hub cache, and --offline or HF_HUB_OFFLINE forbids asking the hub" in done.stderr
    )


def test_a_directory_outside_the_project_needs_an_option(tmp_path_factory, capsys) -> None:  # type: ignore[no-untyped-def]
    outside = tmp_path_factory.mktemp("outside") / "model"
    shutil.copytree(MODELS / "llava-shapes", outside)
    assert init(str(outside), "-o", "a.yaml") == 0
    assert "mmbuild plan a.yaml --allow-outside" in capsys.readouterr().err
    assert main(["validate", "a.yaml", "--allow-outside"]) == 0


@pytest.mark.parametrize("name", ["no such: place", "a'b", "#x"])
def test_names_that_yaml_would_read_otherwise_are_quoted(name: str) -> None:
    shutil.copytree(MODELS / "llava-shapes", name)
    assert init(f"./{name}", "-o", "a.yaml") == 0
    assert read("a.yaml")["model"]["source"] == name  # type: ignore[index]


def test_an_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("llava-hf/llava-1.5-7b-hf", "--backend", "onnx") == 2
    assert "`onnx` is not one of" in capsys.readouterr().err


@pytest.fixture
def llava() -> Path:
    """A whole model in the current directory."""
    shutil.copytree(MODELS / "llava-shapes", "llava")
    return Path("llava")


@pytest.mark.parametrize("output", ["-", "a.yaml"])
def test_a_pointer_in_place_of_weights_is_refused(
    llava: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = llava / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert init("llava", "-o", output) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert "`llava/model.safetensors` is a git-LFS pointer" in out.err
    weights.unlink()
    assert init("llava", "-o", output) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert "contains no weights" in out.err


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """All that a refused `init` prints."""
    assert init(*words, "-o", "-") == 1
    out = capsys.readouterr()
    assert out.out == ""
    return out.err


def test_a_directory_that_does_not_exist_is_relative_to_the_current_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refusal(capsys, "nope") == (
        "error: model directory `nope` does not exist [MM130]\n"
        "\n"
        "hint: check the path, which is relative to the current directory; a model on the hub is `owner/name`\n"
    )


def test_a_file_of_a_model_is_answered_with_its_directory(
    llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, str(llava / "model.safetensors")) == (
        "error: `llava/model.safetensors` is a file, not a model directory [MM130]\n"
        "\n"
        "hint: name its directory, `llava`\n"
    )


@pytest.mark.parametrize(
    ("actions", "built_from", "hint"),
    [
        (
            [{"step": "download", "params": {"source": "model"}, "locators": {"model": "HERE/llava"}}],
            " from `llava`",
            "name the model: `llava`",
        ),
        (
            [
                {"step": "download", "params": {"source": "vision", "repo": "openai/clip"}},
                {"step": "download", "params": {"source": "model", "repo": "llava-hf/llava-1.5-7b-hf"}},
            ],
            " from `hf://llava-hf/llava-1.5-7b-hf`",
            "name the model: `hf://llava-hf/llava-1.5-7b-hf`",
        ),
        ([{"step": "assemble"}], "", "name the model that it was built from"),
        (["damaged"], "", "name the model that it was built from"),
    ],
)
def test_an_engine_is_answered_with_its_model(
    actions: list[object], built_from: str, hint: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Path("build/llava")
    (engine / "processor").mkdir(parents=True)
    (engine / "processor/config.json").write_text("{}")
    (engine / "engine.json").write_text("{}")
    manifest = json.dumps({"actions": actions}).replace("HERE", str(room))
    (engine / "manifest.json").write_text(manifest)
    assert refusal(capsys, "build/llava") == (
        f"error: `build/llava` is an engine that mmbuild built{built_from}, not a model [MM735]\n"
        "\n"
        f"hint: {hint}\n"
    )


def test_a_language_model_alone_is_not_called_a_broken_vila(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text").mkdir()
    Path("text/config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    assert refusal(capsys, "text") == (
        "error: config.json describes a language model without pictures: it has no visual tower [MM414]\n"
        "\n"
        "hint: mmbuild builds vision-language models: name a LLaVA or VILA model, which contains its language model\n"
    )


def test_a_hub_that_cannot_be_reached_is_one_message(room: Path) -> None:
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(room / "hub"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mmbuild", "init", "Qwen/Qwen2-VL-7B-Instruct", "-o", "-"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **unreachable},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: `Qwen/Qwen2-VL-7B-Instruct`: cannot reach 127.0.0.1:9 (Connection refused) [MM422]\n"
        "\n"
        "hint: check the network and HF_ENDPOINT, then try again; "
        "`--offline` plans without the hub; or name a local directory\n"
    )


@pytest.mark.parametrize("memory", ["nan", "inf", "1e300", "0"])
def test_memory_that_no_machine_has_is_refused(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("model", "--memory", memory) == 2
    assert "--memory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\nname: b", "a\tb", "a\x1b[31mb", "a\u2028b"])
def test_a_directory_whose_name_would_break_the_recipe_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MODELS / "llava-shapes", name)
    assert init(f"./{name}", "-o", "-") == 1
    monkeypatch.chdir(name)
    assert init(".", "-o", "-") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("contains a control character") == 2


@pytest.mark.parametrize("name", ["", "..", "../../b", "a/b", "a\nb", "ü", "-a", "x" * 101])
def test_a_name_that_no_build_can_have_is_refused(
    name: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(MODELS / "llava-shapes", "m")
    assert init("./m", "--name", name, "-o", "-") == 2
    assert init("./m", "--name", name) == 2
    assert "--name" in capsys.readouterr().err
    assert {path.name for path in room.iterdir()} == {".git", "m"}
    assert not list(room.parent.glob("*.yaml"))


def test_a_directory_has_no_revision(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(MODELS / "llava-shapes", "m")
    assert init("./m", "--revision", "main") == 2
    assert "is for models on the hub" in capsys.readouterr().err


def test_the_next_command_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(MODELS / "llava-shapes", "m")
    assert init("./m", "-o", "my $recipe.yaml") == 0
    assert 'plan "my \\$recipe.yaml"' in capsys.readouterr().err
