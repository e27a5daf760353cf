"""Recipes and model files that were made to do harm: a coded finding at once, whatever they hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbuild.base.diagnostics import render_github, render_json, render_text
from mmbuild.models.files.chat_template import TemplateError, content_form, render
from mmbuild.pipeline.load import LoadResult, load_recipes
from mmbuild.schema import files
from support.models.directories import save_llava
from support.projects.recipe_project import RECIPE, codes, load, only, png, pointed, write_project

CALIBRATED = RECIPE.replace(
    "quantization: int8", "quantization: {algorithm: int8, calibration: {data: data.jsonl, samples: 1}}"
)


def recipe(key: str, value: str) -> str:
    """The recipe with another value of a key that is in it."""
    return re.sub(rf"(?m)^( *{key}): .*$", lambda found: f"{found[1]}: {value}", RECIPE, count=1)


# Recipes.


@pytest.mark.parametrize("version", ["true", "1.0", "'1'", "2", "[1]", "null"])
def test_only_the_number_one_is_a_version(tmp_path: Path, version: str) -> None:
    assert codes(load(tmp_path, recipe("version", version))) in (["MM115"], ["MM111"], ["MM114"])


@pytest.mark.parametrize(
    "revision",
    [
        "-f",
        "--upload-pack=x",
        "../x",
        "a/../b",
        "a..b",
        "/a",
        "a/",
        "a//b",
        "a b",
        '"a\\nb"',
        "a.lock/..",
        "'$(x)'",
        "'a;b'",
        "x" * 300,
    ],
)
@pytest.mark.parametrize("source", ["hf://owner/name", "model"])
def test_a_revision_is_a_name_that_git_and_the_hub_take(tmp_path: Path, source: str, revision: str) -> None:
    text = recipe("source", f"{source}\n  revision: {revision}")
    assert "MM116" in codes(load(tmp_path, text, offline=True))


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "a" * 40, "feature/a_b-c+d", "1.2.3-rc@2"])
def test_usual_revisions_are_taken(tmp_path: Path, revision: str) -> None:
    text = recipe("source", f"hf://owner/name\n  revision: '{revision}'")
    assert "MM116" not in codes(load(tmp_path, text, offline=True))


def test_a_chain_of_recipes_has_an_end(tmp_path: Path) -> None:
    count = files.MAX_CHAIN + 3
    for number in range(count):
        (tmp_path / f"{number}.yaml").write_text(f"version: 1\nextends: {number + 1}.yaml\n")
    (tmp_path / f"{count}.yaml").write_text(RECIPE)
    write_project(tmp_path)
    assert codes(load_recipes([tmp_path / "0.yaml"])) == ["MM751"]
    assert codes(load_recipes([tmp_path / "6.yaml"])) == []


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "directory"])
@pytest.mark.parametrize("place", ["recipe", "base"])
def test_a_recipe_is_a_regular_file(tmp_path: Path, place: str, kind: str) -> None:
    write_project(tmp_path, "version: 1\nextends: base.yaml\n")
    path = tmp_path / ("recipe.yaml" if place == "recipe" else "base.yaml")
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)
    result = load_recipes([tmp_path / "recipe.yaml"], allow_outside=True)
    assert codes(result) == ["MM100" if place == "recipe" else "MM121"]


def test_a_base_that_is_a_link_out_of_the_project_is_not_read(tmp_path: Path) -> None:
    write_project(tmp_path / "project", "version: 1\nextends: base.yaml\n")
    (tmp_path / "secret.yaml").write_text(RECIPE)
    (tmp_path / "project/base.yaml").symlink_to("../secret.yaml")
    assert codes(load_recipes([tmp_path / "project/recipe.yaml"])) == ["MM122"]


def test_the_name_of_a_variant_is_one_that_a_directory_can_have(tmp_path: Path) -> None:
    axes = "".join(
        f"  {'x' * 55}{key}: {{key: engine.{key}, values: [1]}}\n"
        for key in ("max_batch_size", "max_beam_width")
    )
    assert codes(load(tmp_path, recipe("name", "n" * 100) + "matrix:\n" + axes)) == ["MM752"]
    assert codes(load(tmp_path, recipe("name", "n" * 101))) == ["MM116"]


@pytest.mark.parametrize("name", ["llava.refused", "a.mmbuild-1", "a.mmbuild-1-old"])
def test_a_name_of_mmbuilds_own_directories_is_refused_where_it_is_written(tmp_path: Path, name: str) -> None:
    result = load(tmp_path, recipe("name", name))
    assert (only(result).code, pointed(only(result)), result.variants) == ("MM752", name, ())


@pytest.mark.parametrize("name", ["refused", "a.refused-2", "mmbuild-1"])
def test_other_names_are_free(tmp_path: Path, name: str) -> None:
    assert codes(load(tmp_path, recipe("name", name))) == []


@pytest.mark.parametrize(
    "argument",
    [
        "a" + ".a" * 5000 + "=1",
        "engine=" + "[" * 5000,
        "name=" + "x" * 200_000,
        "name=\x1b[2J",
        "\x1b[31m=1",
        "a.b\n.c=1",
    ],
)
def test_a_value_of_the_command_line_has_limits(tmp_path: Path, argument: str) -> None:
    result = load(tmp_path, RECIPE, argument)
    shown = render_text(result.diagnostics)
    assert codes(result)
    assert len(shown) < 2_000
    assert "\x1b" not in shown


def test_values_that_repeat_one_another_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 8)]
    begun = time.monotonic()
    assert "MM110" in codes(load(tmp_path, "\n".join(lines) + "\n"))
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("text", ["[" + "1, " * 30_000 + "1]", "'" + "x" * 100_000 + "'"])
def test_values_and_texts_of_a_recipe_have_limits(tmp_path: Path, text: str) -> None:
    assert codes(load(tmp_path, RECIPE + f"matrix: {{a: {text}}}\n")) == ["MM110"]


@pytest.mark.parametrize(
    "text",
    ['name: "a\\e[2J"', '"\\e[31mkey\\u202e": 1', 'extends: "a\\nb"', 'verify: {images: ["\\e[2J.png"]}'],
)
def test_control_characters_of_a_recipe_do_not_reach_a_terminal(tmp_path: Path, text: str) -> None:
    kept = RECIPE.replace("name: small\n", "") if text.startswith("name") else RECIPE
    result = load(tmp_path, f"{kept}{text}\n")
    assert result.diagnostics
    for shown in (
        render_text(result.diagnostics),
        render_github(result.diagnostics),
        render_json(result.diagnostics),
    ):
        assert "\x1b" not in shown
        assert "\u202e" not in shown or shown.startswith("{")


def test_the_caret_stays_under_a_line_with_escapes(tmp_path: Path) -> None:
    (item,) = load(tmp_path, RECIPE + "verify: {promts: [\u200e]}\n").diagnostics
    _, line, caret, *_ = render_text([item]).splitlines()
    assert line[caret.index("^") :].startswith("promts")


def test_a_prompt_that_is_not_utf8_is_found_while_validating(tmp_path: Path) -> None:
    path = write_project(tmp_path)
    path.write_bytes(RECIPE.encode() + b'verify: {prompts: ["\xff"]}\n')
    assert codes(load_recipes([path])) == ["MM100"]
    assert codes(load(tmp_path, RECIPE, 'verify.prompts=["\udcff"]')) == ["MM123"]


# Calibration data.


@pytest.mark.parametrize(
    "line",
    [
        "[" * 1000,
        '{"prompt": "a", "x": NaN}',
        '{"prompt": "a", "x": 1e999}',
        '{"prompt": "\\ud800"}',
        '{"prompt": "a", "image": "a\\u0000b"}',
        json.dumps({"prompt": "a", "image": "a" * 5000}),
        json.dumps({"prompt": "a" * 2_000_000}),
        '\ufeff{"prompt": "a"}',
    ],
)
def test_a_hostile_line_of_calibration_data_is_named(tmp_path: Path, line: str) -> None:
    write_project(tmp_path)
    (tmp_path / "data.jsonl").write_text(line)
    item = only(load(tmp_path, CALIBRATED))
    assert item.code == "MM166"
    assert len(item.message) < 1_000


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_calibration_data_are_a_regular_file(tmp_path: Path, kind: str) -> None:
    write_project(tmp_path)
    path = tmp_path / "data.jsonl"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(kind)
    assert codes(load(tmp_path, CALIBRATED, allow_outside=True)) == ["MM166"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png"])
def test_a_picture_of_calibration_data_stays_next_to_them(tmp_path: Path, name: str) -> None:
    write_project(tmp_path / "project")
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "project/link.png").symlink_to("../secret.png")
    (tmp_path / "project/data.jsonl").write_text(json.dumps({"prompt": "a", "image": name}))
    assert codes(load(tmp_path / "project", CALIBRATED)) == ["MM167"]


def test_a_verify_image_must_not_be_a_link_out_of_the_project(tmp_path: Path) -> None:
    write_project(tmp_path / "project")
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "project/a.png").symlink_to("../secret.png")
    assert codes(load(tmp_path / "project", RECIPE + "verify: {images: [a.png]}\n")) == ["MM122"]


# Files of a model.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model."""
    return save_llava(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of it in a project."""
    write_project(tmp_path, RECIPE.replace("max_images_per_prompt: 3", "max_images_per_prompt: 1"))
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def validated(model: Path) -> LoadResult:
    return load_recipes([model.parent / "recipe.yaml"])


def test_the_model_itself_is_valid(model: Path) -> None:
    assert codes(validated(model)) == []


def test_a_config_that_names_no_tower_is_a_finding(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vision_config": {"model_type": {}}}))
    assert only(validated(model)).code == "MM411"


TEXTS: dict[str, tuple[str, str]] = {
    "infinity in config.json": ("config.json", '{"model_type": "llava", "image_token_index": Infinity}'),
    "a byte order mark in config.json": ("config.json", '\ufeff{"model_type": "llava"}'),
    "nesting of config.json": ("config.json", '{"a":' * 5000 + "1" + "}" * 5000),
    "a number of 10,000 digits in config.json": ("config.json", '{"a": ' + "9" * 10_000 + "}"),
    "not a number in generation_config.json": ("generation_config.json", '{"temperature": NaN}'),
    "nesting of generation_config.json": ("generation_config.json", '{"a":' * 5000 + "1" + "}" * 5000),
    "nesting of the tokenizer": ("tokenizer.json", "[" * 100_000),
    "a surrogate in the tokenizer": ("tokenizer.json", '{"model": {"vocab": {"\\ud800": 1}}}'),
    "infinity in the tokenizer's settings": ("tokenizer_config.json", '{"a": Infinity}'),
    "nesting of the processor": ("processor_config.json", "[" * 100_000),
    "a number in the index": ("model.safetensors.index.json", '{"weight_map": {"a": 7}}'),
    "an index without names": ("model.safetensors.index.json", "[]"),
    "a long name in the index": (
        "model.safetensors.index.json",
        json.dumps({"weight_map": {"a": "x" * 5000 + ".safetensors"}}),
    ),
    "a path in the index": ("model.safetensors.index.json", '{"weight_map": {"a": "../../secret"}}'),
    "an absolute path in the index": ("model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}'),
    "a NUL in the index": ("model.safetensors.index.json", '{"weight_map": {"a": "a\\u0000.safetensors"}}'),
    "a surrogate in the index": ("model.safetensors.index.json", '{"weight_map": {"a": "\\ud800"}}'),
    "code for the tokenizer": (
        "tokenizer_config.json",
        '{"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["m.Mine", null]}}',
    ),
    "a loop in the template": (
        "chat_template.jinja",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    ),
}


@pytest.mark.parametrize(("name", "text"), TEXTS.values(), ids=TEXTS)
def test_a_hostile_file_of_a_model_is_one_finding(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text)
    begun = time.monotonic()
    result = validated(model)
    assert time.monotonic() - begun < 5
    item = only(result)
    assert item.severity == "error"
    assert len(item.message) < 6_000


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "merges.txt",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_files_of_a_model_are_regular_files(model: Path, name: str, kind: str) -> None:
    (model / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(model / name)
        assert codes(validated(model)) == ["MM745"]
    else:
        (model / name).symlink_to(kind)
        assert codes(load_recipes([model.parent / "recipe.yaml"], allow_outside=True)) == ["MM745"]


def relabel(path: Path, pick: Callable[[str], bool], dtype: str) -> None:
    """Give the first tensor that ``pick`` takes another number format of the same width."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[next(name for name in header if pick(name))]["dtype"] = dtype
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize("dtype", ["I32", "U32"])
@pytest.mark.parametrize(
    "part", ["language_model.model.layers.0", "embed_tokens", "vision_tower", "multi_modal_projector"]
)
def test_weights_are_floats(model: Path, part: str, dtype: str) -> None:
    relabel(model / "model.safetensors", lambda name: part in name and name.endswith("weight"), dtype)
    assert codes(validated(model)) == ["MM749"]


# Chat templates.


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**10**8 }}",
        "{{ 'a'|center(10**10) }}",
        "{{ ('%1000000000d' % 1)|length }}",
        "{{ '{:>1000000000}'.format(1)|length }}",
        "{{ [0] * 10**9 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ range(10**9)|list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_takes_little_time_and_memory(text: str) -> None:
    begun = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        content_form(text, {}, "<image>")
    assert caught.value.code == "MM730"
    with pytest.raises(TemplateError):
        render(text + "{{ raise_exception('end') }}", [{"role": "user", "content": "a"}], special_tokens={})
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("place", ["directory", "file"])
def test_a_path_that_is_not_utf8_is_found_while_validating(tmp_path: Path, place: str) -> None:
    directory = tmp_path / ("a\udcff" if place == "directory" else "a")
    directory.mkdir()
    path = write_project(directory)
    if place == "file":
        path = path.rename(directory / "a\udcff.yaml")
    found = only(load_recipes([path]))
    assert found.code == "MM100"
    assert "\\udcff" in render_text([found])
