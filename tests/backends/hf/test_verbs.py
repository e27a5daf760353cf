"""A checkpoint through every verb, as its users see it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from mmbuild.backends.engine_dir.description import read
from mmbuild.backends.hf import card
from mmbuild.cli import main
from mmbuild.core.execution import run_plan
from mmbuild.inspect.compare_builds import compare
from support.engines.loaded import demo_directory
from support.hf.checkpoints import MODELS, checkpoint
from support.projects.warm_workers import REAL_STEPS, address, starter

PICTURE = MODELS.parent / "pictures" / "three-red-stars.png"
RECIPE = {
    "version": 1,
    "name": "stars",
    "model": {"family": "llava", "source": "model"},
    "engine": {
        "backend": "hf",
        "dtype": "float16",
        "quantization": "int4",
        "max_batch_size": 2,
        "max_input_len": 128,
        "max_output_len": 20,
    },
    "verify": {"prompts": ["how many shapes ?"], "images": ["stars.png"], "max_new_tokens": 8},
}


def fill(root):
    (root / "pyproject.toml").touch()
    shutil.copytree(MODELS / "llava-shapes", root / "model")
    (root / "model" / "LICENSE").write_text("Do what you like.\n")
    shutil.copy(PICTURE, root / "stars.png")
    (root / "stars.yaml").write_text(yaml.safe_dump(RECIPE))


def enter(root, patch):
    patch.chdir(root)
    patch.setenv("MMBUILD_STORE", str(root / "store"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    fill(tmp_path)
    enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Applies find torch and transformers imported: e2e has those that start Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_plan, "start_workers", starter(address(*REAL_STEPS)))
        yield


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(scope="module")
def applied(tmp_path_factory, warm):  # noqa: ARG001
    """A project whose recipe was applied; tests work in copies."""
    pytest.importorskip("compressed_tensors")
    root = tmp_path_factory.mktemp("applied")
    fill(root)
    with pytest.MonkeyPatch.context() as patch:
        enter(root, patch)
        assert main(["apply", "stars.yaml"]) == 0
    return root


@pytest.fixture
def build(applied, tmp_path, monkeypatch):
    """The engine directory in a copy of the project, which is the working directory."""
    root = tmp_path / "copy"
    subprocess.run(["cp", "-a", applied, root], check=True)  # hard links stay what they are
    enter(root, monkeypatch)
    return root / "build" / "stars"


@pytest.mark.slow
def test_a_checkpoint_is_asked_verified_and_compared(build, capsys):
    project = build.parents[1]
    assert (build / "LICENSE").read_text() == "Do what you like.\n"
    status, out, err = run(capsys, "run", build, "--image", "stars.png", "--prompt", "how many shapes ?")
    assert (status, out) == (0, "three\n"), err
    status, out, _ = run(
        capsys, "run", build, "--image", "stars.png", "--prompt", "how many shapes ?", "--json"
    )
    answer = json.loads(out)
    assert answer["answers"][0]["text"] == "three"
    assert answer["profile"]["new_tokens"] == len(answer["answers"][0]["token_ids"])
    (build / "profile.json").write_text(out)
    status, out, err = run(capsys, "verify", build)
    assert status == 0, err
    assert "1 of 1 answers have the same tokens" in out
    status, out, _ = run(capsys, "compat", build)
    assert (status, "compressed-tensors" in out) == (0, True)
    status, _, err = run(capsys, "serve", build)
    assert status != 0
    assert "vllm serve" in err
    (project / "questions.jsonl").write_text(
        '{"image": "stars.png", "prompt": "what color is it ?", "answer": ["red", "crimson"]}\n'
    )
    status, out, err = run(capsys, "eval", build, "--data", "questions.jsonl", "--json")
    assert status == 0, err
    assert json.loads(out)["answers"][0]["scores"] == {"exact": 1, "normalized": 1, "f1": 1}
    assert json.loads(out)["settings"]["batch"] == 1
    status, _, err = run(capsys, "run", build, "--image", "stars.png", "--prompt", "x", "--num-beams", "2")
    assert "MM705" in err
    status, _, _ = run(
        capsys, "apply", "stars.yaml", "--set", "name=plain", "--set", "engine.quantization=none"
    )
    assert status == 0
    status, out, err = run(capsys, "compare", build, project / "build" / "plain", "--json")
    assert status == 0, err
    first, second = json.loads(out)["builds"]
    assert (first["backend"], first["quant_algo"], second["quant_algo"]) == ("hf", "W4A16", None)
    assert first["quality"]["min_answer_agreement"] == 1
    assert first["speed"]["tokens_per_second"] > 0
    assert first["bytes"]["weights"] < second["bytes"]["weights"]


@pytest.mark.slow
def test_an_edited_directory_is_refused_before_it_is_loaded(build, capsys):
    path = build / "config.json"
    text = path.read_text()
    path.chmod(0o644)
    path.unlink()
    path.write_text(text.replace("vision_tower", "vision_towr"))
    question = ("run", build, "--image", "stars.png", "--prompt", "how many shapes ?")
    assert "[MM761]" in run(capsys, *question)[2]
    status, out, err = run(capsys, *question, "--no-check")
    assert (status, out) == (1, "")
    assert "`re:.*vision_towr.*` matches no module" in err
    assert "[MM885]" in err


@pytest.mark.slow
def test_the_card_has_the_recipe_s_numbers_and_the_files(build):
    card = (build / "README.md").read_text()
    for words in (
        "# stars",
        "`model` quantized with `int4`",
        "license_link: LICENSE",
        "| mean KL over the answers |",
        "at most 0.06: passed",
        "vllm serve . --dtype float16 --max-model-len 148 --max-num-seqs 2",
        "| model.safetensors |",
    ):
        assert words in card
    assert str(build.parent.parent) not in card
    manifest = json.loads((build / "manifest.json").read_text())
    for name in ("model.safetensors", "config.json"):
        assert f"`{manifest['files'][name]['blake3']}`" in card


@pytest.mark.slow
def test_new_numbers_for_the_server_quantize_nothing_again(build, capsys):
    larger = ("--set", "engine.max_batch_size=5", "--set", "verify=null")
    status, out, _ = run(capsys, "apply", "stars.yaml", *larger, "--json")
    assert status == 0
    assert "--max-num-seqs 5" in (build / "README.md").read_text()
    status, out, _ = run(capsys, "plan", "stars.yaml", "--set", "engine.max_batch_size=7", "--json")
    verdicts = {action["label"]: action["verdict"] for action in json.loads(out)["actions"]}
    assert verdicts["stars/hf_weights"] == "up to date"
    assert verdicts["stars/hf_model"] == "run"


@pytest.mark.usefixtures("project")
@pytest.mark.slow
def test_a_matrix_of_quantizations_and_a_lock(capsys):
    pytest.importorskip("compressed_tensors")
    matrix = {**RECIPE, "matrix": {"quantization": ["none", "int8", "fp8"]}}
    with open("stars.yaml", "w") as file:
        yaml.safe_dump(matrix, file)
    assert run(capsys, "apply", "stars.yaml")[0] == 0
    status, out, _ = run(capsys, "matrix", "stars.yaml")
    assert (status, "stars-int8" in out, "stars-fp8" in out) == (0, True, True)
    assert run(capsys, "lock", "stars.yaml")[0] == 0
    with open("stars.lock") as file:
        assert "compressed-tensors" in file.read()
    status, out, err = run(capsys, "plan", "stars.yaml", "--locked")
    assert status == 0, err


@pytest.mark.slow
def test_a_shared_store_hands_a_checkpoint_to_another_machine(project, monkeypatch, capsys):
    pytest.importorskip("compressed_tensors")
    monkeypatch.setenv("MMBUILD_REMOTE", f"file://{project}/shared")
    monkeypatch.setenv("MMBUILD_PUSH", "always")
    assert run(capsys, "apply", "stars.yaml")[0] == 0
    first = (project / "build" / "stars" / "model.safetensors").read_bytes()
    monkeypatch.setenv("MMBUILD_STORE", str(project / "other"))
    status, out, _ = run(capsys, "plan", "stars.yaml", "--build-dir", "elsewhere", "--json")
    verdicts = {action["label"]: action["verdict"] for action in json.loads(out)["actions"]}
    assert (status, verdicts["stars/hf_weights"], verdicts["stars/hf_card"]) == (0, "up to date", "pull")
    status, _, err = run(capsys, "apply", "stars.yaml", "--build-dir", "elsewhere")
    assert status == 0, err
    assert "0 ran" in err
    assert (project / "elsewhere" / "stars" / "model.safetensors").read_bytes() == first


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_an_engine():
    builds = [checkpoint("llava", "int4", "float16"), demo_directory()]
    first, second = compare(builds)["builds"]
    assert (first["backend"], second["backend"]) == ("hf", "torch")
    assert (first["quant_algo"], first["ranks"], second["quant_algo"]) == ("W4A16", 1, None)
    assert first["bytes"]["packages"] == 0 < second["bytes"]["packages"]


@pytest.mark.usefixtures("project")
def test_the_script_serves_what_is_named(project, capsys, tmp_path):
    status, _, err = run(capsys, "script", "stars.yaml", "-o", "serve.sh")
    assert status == 0, err
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("vllm", "python"):
        (binaries / name).write_text(f'#!/bin/sh\necho "{name} $*; in $PWD"\n')
        (binaries / name).chmod(0o755)
    (project / "build").mkdir()
    environment = {"PATH": f"{binaries}:/usr/bin:/bin"}

    def served(*arguments):
        return subprocess.run(
            ["bash", "serve.sh", *arguments], env=environment, capture_output=True, text=True, check=False
        )

    limit = '{"image": 1}'
    assert served().stdout == (
        "vllm serve stars --dtype float16 --max-model-len 148 --max-num-seqs 2 --max-num-batched-tokens 148 "
        f"--limit-mm-per-prompt {limit} --tensor-parallel-size 1; in {project}/build\n"
    )
    assert served("sglang", "stars").stdout.startswith("python -m sglang.launch_server --model-path stars")
    assert served("vllm", "moon").returncode == 2


FLOAT32 = (
    "`--dtype float16` instead of the recipe's float32: kernels of vLLM 0.26 for quantized layers take float16 or "
    "bfloat16"
)


@pytest.mark.usefixtures("project")
def test_the_script_of_a_quantized_float32_recipe_says_in_which_dtype_it_is_served(capsys):
    for dtype, quantization, served, remarks in (
        ("float32", "int4", "float16", 2),
        ("float32", "none", "float32", 0),
        ("bfloat16", "int4", "bfloat16", 0),
    ):
        chosen = ("--set", f"engine.dtype={dtype}", "--set", f"engine.quantization={quantization}")
        status, out, err = run(capsys, "script", "stars.yaml", *chosen)
        assert status == 0, err
        assert out.count(f" --dtype {served} ") == 2, out
        assert out.count("    # `--dtype float16` instead of the recipe's float32") == remarks
        assert (f"    # {FLOAT32}\n    exec vllm serve" in out) == (remarks > 0)


def test_serve_of_a_quantized_float32_checkpoint_prints_a_command_that_works(capsys):
    status, _, err = run(capsys, "serve", checkpoint("llava", "int4"), "--no-check")
    assert status == 2
    assert " --dtype float16 " in err
    assert f"where that server is installed; {FLOAT32}\n" in err
    status, _, err = run(capsys, "serve", checkpoint("llava", "none"), "--no-check")
    assert " --dtype float32 " in err
    assert err.endswith("where that server is installed\n")


@pytest.mark.parametrize(("algorithm", "count"), [("int4", 1), ("none", 0)])
def test_the_card_of_a_float32_checkpoint_says_in_which_dtype_it_is_served(algorithm, count):
    described = read(checkpoint("llava", algorithm))
    text = card.text(card.Card("stars", "model", None, algorithm, None, {}, described, (), None))
    assert text.count(f"# {FLOAT32}\nvllm serve . --dtype float16 ") == count
    assert text.count("--dtype float32") == 2 - 2 * count


@pytest.mark.usefixtures("project")
def test_scripts_of_two_backends_are_refused(capsys):
    status, _, err = run(
        capsys, "script", "stars.yaml", MODELS.parents[1] / "recipes" / "demo" / "llava.yaml"
    )
    assert status == 2
    assert "[MM887]" in err
