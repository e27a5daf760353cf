"""What a new user gets wrong first, with the complete error output."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from blake3 import blake3
from PIL import Image

from mmbuild.base.optional_packages import install_hint
from mmbuild.cli import main
from support.models.directories import save_llava
from support.projects.recipe_project import RECIPE, png, write_project

FIXTURE = Path(__file__).parents[1] / "fixtures" / "project-9d5f9bf.tar.xz"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava") / "m")


@pytest.fixture
def project(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a recipe next to a whole model."""
    monkeypatch.setenv("NO_COLOR", "1")
    write_project(tmp_path)
    shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def screen(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    """Everything the command prints; nothing may go to standard output."""
    assert main([*arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def validated(capsys: pytest.CaptureFixture[str], recipe: str, status: int = 1) -> str:
    Path("recipe.yaml").write_text(recipe)
    return screen(capsys, "validate", "recipe.yaml", status=status)


# 1. A picture to verify with that is missing.


@pytest.mark.usefixtures("project")
def test_a_missing_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.png").write_bytes(png())
    recipe = RECIPE + "verify:\n  images:\n    - a.png\n    - pictures/b.png\n"
    assert validated(capsys, recipe) == (
        "recipe.yaml:17:7: error: the image `pictures/b.png` does not exist [MM517]\n"
        "   17 |     - pictures/b.png\n"
        "      |       ^^^^^^^^^^^^^^\n"
        "      hint: check the path; it is relative to the file that names it\n"
        "\n"
        "1 error; `mmbuild explain MM517` says more\n"
    )


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("right", "wrong", "place", "error", "hint"),
    [
        (
            "dtype: float32",
            "dtype:float32",
            "8:9",
            "a key has no space after its colon [MM101]",
            "write `dtype: float32`",
        ),
        (
            "family: llava",
            "family:llava",
            "4:10",
            "a key has no space after its colon [MM101]",
            "write `family: llava`",
        ),
        (
            "dtype: float32",
            "float32, I think",
            "8:3",
            "not valid YAML: this is not `key: value` [MM101]",
            "check quotes, brackets and indentation here and on the line before",
        ),
        (
            "backend: torch",
            "backend: torch# or hf",
            "7:12",
            "`engine.backend` cannot be `torch# or hf` [MM112]",
            "a comment needs a space before its `#`: `torch  # ...`",
        ),
        (
            "max_batch_size: 2",
            "max_batch_size: 2# prompts",
            "10:19",
            "`engine.max_batch_size` must be a whole number, not `2# prompts` [MM114]",
            "a comment needs a space before its `#`: `2  # ...`",
        ),
        (
            "source: model",
            "source: ${MODELS}/llava",
            "5:11",
            "model directory `${MODELS}/llava` does not exist [MM130]",
            "variables are not replaced in recipes; a shell replaces them in `--set KEY=VALUE`",
        ),
        (
            "  max_output_len: 64",
            "  max_output_len: 64\n  verify: {max_new_tokens: 3}",
            "14:3",
            "`engine` has no key `verify` [MM103]",
            "`verify` is a key of the recipe itself: write it without indentation",
        ),
    ],
)
def test_slips_in_yaml(
    right: str, wrong: str, place: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = validated(capsys, RECIPE.replace(right, wrong))
    assert said.startswith(f"recipe.yaml:{place}: error: {error}\n")
    assert f"\n      hint: {hint}\n\n1 error" in said
    assert "did you mean" not in said


@pytest.mark.usefixtures("project")
def test_a_section_with_one_key_without_a_space_after_the_colon(capsys: pytest.CaptureFixture[str]) -> None:
    said = validated(capsys, RECIPE + "visual:\n  dtype:float32\n")
    assert "`visual` must be a mapping, not `dtype:float32` [MM114]" in said
    assert "hint: put a space after the colon: `dtype: float32`\n" in said


@pytest.mark.usefixtures("project")
def test_a_name_that_is_indented_too_far_is_one_finding(capsys: pytest.CaptureFixture[str]) -> None:
    said = validated(capsys, RECIPE.replace("name: small\n", "") + "  name: small\n")
    assert "hint: `name` is a key of the recipe itself: write it without indentation\n\n1 error;" in said


@pytest.mark.usefixtures("project")
def test_mistyped_paths_in_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").mkdir()
    Path("pictures/stars.png").write_bytes(png())
    recipe = RECIPE.replace("source: model", "source: modle") + "verify:\n  images: [pictures/star.png]\n"
    assert "hint: did you mean `model`?" in validated(capsys, recipe)
    recipe = RECIPE + "verify:\n  images: [pictures/star.png]\n"
    assert "hint: did you mean `stars.png`?" in validated(capsys, recipe)


@pytest.mark.usefixtures("project")
def test_a_mistyped_path_of_calibration_data(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.jsonl").write_text('{"prompt": "what is it ?"}\n')
    awq = "quantization: {algorithm: int4_awq, calibration: {data: dat.jsonl, text_only: true}}"
    recipe = RECIPE.replace("quantization: int8", awq)
    assert "hint: did you mean `data.jsonl`?" in validated(capsys, recipe)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["init", "./modle"], "model"),
        (["run", "build/lava", "--prompt", "x"], "build/llava"),
        (["compat", "build/lava"], "build/llava"),
        (["verify", "build/llava", "--image", "start.png"], "star.png"),
        (["chat", "build/lava"], "build/llava"),
        (["bench", "build/llava", "--image", "start.png"], "star.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistyped_paths_on_the_command_line(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("build/llava").mkdir(parents=True)
    Path("star.png").write_bytes(png())
    assert screen(capsys, *words).endswith(f"hint: did you mean `{near}`?\n")


@pytest.mark.usefixtures("project")
def test_missing_picture_is_not_reported_as_a_bug_by_plan(capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE + "verify: {images: [b.png]}\n")
    assert screen(capsys, "plan", "recipe.yaml", "--store", "store") == (
        "recipe.yaml:14:19: error: the image `b.png` does not exist [MM517]\n"
        "   14 | verify: {images: [b.png]}\n"
        "      |                   ^^^^^\n"
        "      hint: check the path; it is relative to the file that names it\n"
    )


# 2. Pictures that are none, and questions that are too long.


def write_bad_pictures(directory: Path) -> None:
    (directory / "folder.png").mkdir()
    (directory / "text.png").write_text("not a picture")
    (directory / "empty.jpg").touch()
    Image.new("RGB", (64, 64), "red").save(directory / "cut.png")
    whole = (directory / "cut.png").read_bytes()
    (directory / "cut.png").write_bytes(whole[: len(whole) // 2])
    (directory / "head.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    Image.new("RGB", (8, 8)).save(directory / "portable.ppm")


def test_files_that_are_not_pictures(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bad_pictures(project)
    names = ["folder.png", "text.png", "empty.jpg", "cut.png", "head.jpg", "portable.ppm"]
    recipe = RECIPE + "verify:\n  images:\n" + "".join(f"    - {name}\n" for name in names)
    taken = "      hint: use a PNG, JPEG, WebP, GIF, TIFF or BMP file\n\n"
    assert validated(capsys, recipe) == (
        "recipe.yaml:16:7: error: the image `folder.png` is a directory [MM517]\n"
        "   16 |     - folder.png\n"
        "      |       ^^^^^^^^^^\n"
        + taken
        + "recipe.yaml:17:7: error: the image `text.png` is not a PNG, JPEG, "
        "WebP, GIF, TIFF or BMP file [MM517]\n"
        "   17 |     - text.png\n"
        "      |       ^^^^^^^^\n"
        + taken
        + "recipe.yaml:18:7: error: the image `empty.jpg` is empty [MM517]\n"
        "   18 |     - empty.jpg\n"
        "      |       ^^^^^^^^^\n"
        + taken
        + "recipe.yaml:19:7: error: the image `cut.png` cannot be read: it is damaged "
        "(image file is truncated) [MM517]\n"
        "   19 |     - cut.png\n"
        "      |       ^^^^^^^\n"
        + taken
        + "recipe.yaml:20:7: error: the image `head.jpg` cannot be read: it is damaged (Truncated File Read) "
        "[MM517]\n"
        "   20 |     - head.jpg\n"
        "      |       ^^^^^^^^\n"
        + taken
        + "recipe.yaml:21:7: error: the image `portable.ppm` is not a PNG, JPEG, "
        "WebP, GIF, TIFF or BMP file [MM517]\n"
        "   21 |     - portable.ppm\n"
        "      |       ^^^^^^^^^^^^\n" + taken + "6 errors; `mmbuild explain MM517` says more\n"
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_image_formats_are_recognized_by_content(
    project: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    Image.new("RGB", (20, 10), "red").save(project / "picture.bin", format=kind)
    (project / "recipe.yaml").write_text(RECIPE + "verify: {images: [picture.bin]}\n")
    assert main(["validate", "recipe.yaml"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("project")
def test_a_question_that_is_too_long_is_not_printed_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    long = "what is the colour of this ? " * 20
    recipe = RECIPE + f"verify:\n  prompts:\n    - what ?\n    - '{long}'\n"
    found = validated(capsys, recipe)
    first, *_ = found.splitlines()
    # A token for each byte of the question in LLaVA's own form, one for the beginning, and 16 visual features.
    count = len(f"USER: \n{long} ASSISTANT:") + 1 + 16
    assert first == (
        "recipe.yaml:17:7: error: the prompt `what is the colour of this ? what is ...` takes "
        f"{count} tokens, 16 of them visual features, but max_input_len is 128 [MM512]"
    )
    assert found.endswith(
        f"      hint: shorten the prompt, or raise engine.max_input_len to {count}\n"
        "\n"
        "1 error; `mmbuild explain MM512` says more\n"
    )
    assert long not in found


def test_chat_template_counts_towards_the_length(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The template already writes the start token, so none is added."""
    Path("model/chat_template.jinja").write_text(
        "{{ bos_token }}{% for c in messages[0].content %}"
        "{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}"
    )
    fits = "x" * (128 - 16 - 1)
    (project / "recipe.yaml").write_text(RECIPE + f"verify: {{prompts: ['{fits}']}}\n")
    assert main(["validate", "recipe.yaml"]) == 0
    capsys.readouterr()
    assert "takes 129 tokens" in validated(capsys, RECIPE + f"verify: {{prompts: ['{fits}x']}}\n")
    complete = f"<image> {fits}"
    assert "takes 129 tokens" in validated(capsys, RECIPE + f"verify: {{prompts: ['{complete}']}}\n")


# 3. An engine that is run without torch.


@pytest.mark.parametrize(
    "verb",
    [["run", "BUILD", "--prompt", "why?", "--image", "a.png"], ["verify", "BUILD", "--model", "model"]],
)
def test_run_without_torch(verb: list[str], tmp_path: Path) -> None:
    engine = tmp_path / "build"
    engine.mkdir()
    write_description(engine)
    (tmp_path / "a.png").write_bytes(png())
    arguments = [str(engine) if word == "BUILD" else word for word in verb]
    program = (
        "import sys; sys.modules['torch'] = None; from mmbuild.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: running an engine needs `torch` in mmbuild's own environment, where it is not installed [MM230]\n"
        "\n"
        f"hint: {install_hint('torch')}\n"
    )


def test_a_missing_picture_is_reported_before_the_engine_is_loaded(tmp_path: Path) -> None:
    engine = tmp_path / "build"
    engine.mkdir()
    write_description(engine)
    program = (
        "import sys; sys.modules['torch'] = None; from mmbuild.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["run", str(engine), "--prompt", "why?", "--image", "a.png"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the image `a.png` does not exist [MM517]\n\nhint: check the path\n"


def write_description(directory: Path) -> None:
    """engine.json of a real engine, and the manifest that goes with it."""
    with tarfile.open(FIXTURE) as archive:
        text = archive.extractfile("./build/old/engine.json").read()  # type: ignore[union-attr]
    (directory / "engine.json").write_bytes(text)
    files = {"engine.json": {"size": len(text), "blake3": blake3(text).hexdigest()}}
    (directory / "manifest.json").write_text(json.dumps({"files": files}))


def test_the_python_api_without_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import mmbuild\n"
        "try: mmbuild.Engine\n"
        "except mmbuild.base.errors.MmbuildError as error: print(error.code, error.message)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "MM230 running an engine needs `torch` in mmbuild's own environment, where it is not installed\n"
    )


# 5. Sources that are written in another way.


@pytest.mark.usefixtures("project")
def test_the_name_of_a_model_on_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPE.replace("source: model", "source: llava-hf/llava-1.5-7b-hf")
    assert validated(capsys, recipe) == (
        "recipe.yaml:5:11: error: model directory `llava-hf/llava-1.5-7b-hf` does not exist [MM130]\n"
        "    5 |   source: llava-hf/llava-1.5-7b-hf\n"
        "      |           ^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "      hint: for the model on the hub, write `source: hf://llava-hf/llava-1.5-7b-hf`; a directory is "
        "relative to the file that names it\n"
        "\n"
        "1 error; `mmbuild explain MM130` says more\n"
    )


@pytest.mark.usefixtures("project")
def test_misspelt_path_is_not_taken_for_a_hub_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = validated(capsys, RECIPE.replace("source: model", "source: model/lava"))
    assert "      hint: check the path; it is relative to the file that names it\n" in found


PAGE = "https://huggingface.co/llava-hf/llava-1.5-7b-hf"
COMMIT = "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"


@pytest.mark.usefixtures("project")
def test_the_address_of_a_model_s_page(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPE.replace("source: model", f"source: {PAGE}/tree/{COMMIT}")
    assert validated(capsys, recipe) == (
        f"recipe.yaml:5:11: error: invalid source `{PAGE}/tree/{COMMIT}` [MM131]\n"
        f"    5 |   source: {PAGE}/tree/{COMMIT}\n"
        f"      |           {'^' * len(f'{PAGE}/tree/{COMMIT}')}\n"
        f"      hint: write `source: hf://llava-hf/llava-1.5-7b-hf`, and `revision: {COMMIT}` below it\n"
        "\n"
        "1 error; `mmbuild explain MM131` says more\n"
    )


def test_the_home_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(project))
    (project / "recipe.yaml").write_text(RECIPE.replace("source: model", "source: ~/model"))
    assert main(["validate", "recipe.yaml"]) == 0
    assert capsys.readouterr().out == "ok small recipe.yaml\n"
    monkeypatch.setenv("HOME", str(project.parent))
    assert validated(capsys, RECIPE.replace("source: model", "source: ~/model")) == (
        f"recipe.yaml:5:11: error: `~/model` is outside the project root {project} [MM122]\n"
        "    5 |   source: ~/model\n"
        "      |           ^^^^^^^\n"
        "      hint: move it into the project, write an empty mmbuild.yaml where the project begins, pass it "
        "with --set, or allow it with --allow-outside\n"
        "\n"
        "1 error; `mmbuild explain MM122` says more\n"
    )


# 6. A recipe of another project, named from here.


def test_a_recipe_next_to_the_current_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = project / "here"
    here.mkdir()
    (project / "mmbuild.yaml").unlink()
    (here / "pyproject.toml").touch()
    monkeypatch.chdir(here)
    assert main(["validate", "../recipe.yaml"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("ok small ../recipe.yaml\n", "")


# 7. Numbers with an exponent.


@pytest.mark.usefixtures("project")
def test_numbers_with_an_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    from mmbuild.pipeline.load import load_recipes

    text = RECIPE.replace("source: model", "source: dummy://./model") + "verify: {prompts: [why]}\n"
    Path("recipe.yaml").write_text(text + "gates: {max_kl: 1e-2, max_perplexity_ratio: 1.5E+1}\n")
    (variant,) = load_recipes([Path("recipe.yaml")]).variants
    assert variant.recipe.gates is not None
    assert (variant.recipe.gates.max_kl, variant.recipe.gates.max_perplexity_ratio) == (0.01, 15.0)
    for wrong in ("one", "'1e'", "1e999"):
        text_of_it = wrong.strip("'")
        assert validated(capsys, text + f"gates: {{max_kl: {wrong}}}\n") == (
            f"recipe.yaml:15:17: error: `gates.max_kl` must be a number, not `{text_of_it}` [MM114]\n"
            f"   15 | gates: {{max_kl: {wrong}}}\n"
            f"      |                 {'^' * len(wrong)}\n"
            "\n"
            "1 error; `mmbuild explain MM114` says more\n"
        )


# 9. A recipe where an engine is required.


@pytest.mark.parametrize("verb", ["run", "verify", "compat", "compare"])
def test_a_recipe_instead_of_an_engine(project: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert screen(capsys, verb, "recipe.yaml") == (
        "error: `recipe.yaml` is a recipe, not an engine directory [MM540]\n"
        "\n"
        "hint: run `mmbuild apply recipe.yaml` first; its engine is then in `build/small`\n"
    )
    (project / "build" / "small-int8").mkdir(parents=True)
    write_description(project / "build" / "small-int8")
    assert screen(capsys, verb, "recipe.yaml") == (
        "error: `recipe.yaml` is a recipe, not an engine directory [MM540]\n"
        "\n"
        "hint: name its engine: `build/small-int8`\n"
    )


INSTEAD = {
    "model": (
        "`model` is a model directory, not an engine",
        "write a recipe with `source` set to it, apply it, and name the directory that `mmbuild apply` prints",
    ),
    "build": (
        "`build` is a directory of engines, not an engine",
        "name one of them: `build/other`, `build/small`",
    ),
    ".": (
        "`.` is a directory of recipes, not an engine",
        "name its engine: `build/small`",
    ),
    "some/small": ("`some/small` does not exist", "did you mean `build/small`?"),
    "some/nothing": (
        "`some/nothing` does not exist",
        "run `mmbuild apply RECIPE` first; its engine is then in `build/<name>`",
    ),
    "build/small/engine.json": (
        "`build/small/engine.json` is a file of an engine, not its directory",
        "name `build/small`",
    ),
    "a.png": (
        "`a.png` is a file, not an engine directory",
        "run `mmbuild apply RECIPE` first; its engine is then in `build/<name>`",
    ),
}


@pytest.mark.parametrize("given", INSTEAD)
def test_something_else_instead_of_an_engine(
    project: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("small", "other"):
        (project / "build" / name).mkdir(parents=True)
        write_description(project / "build" / name)
    (project / "a.png").write_bytes(png())
    message, hint = INSTEAD[given]
    assert screen(capsys, "compat", given) == f"error: {message} [MM540]\n\nhint: {hint}\n"
