"""Lowering: which actions a recipe becomes, and what each one's key depends on."""

import copy
import importlib.util
from pathlib import Path

import pytest

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import local_environment
from mmbuild.backends.torch.lower import lower
from mmbuild.base.errors import MmbuildError
from mmbuild.base.optional_packages import MissingPackageError
from support.errors import refused
from support.projects.recipe_project import CONFIG, FEATURES, PARTS, RECIPE, load, png, write_parts

HOST = {"device": "cpu", "sm": None, "isa": "avx2"}
ALL = [
    "download",
    "convert",
    "quantize",
    "build_llm",
    "build_visual",
    "convert_visual",
    "assemble",
    "measure",
    "verify",
]
VERIFY = "verify: {prompts: [why], images: [a.png, b.png], max_new_tokens: 500}\n"


@pytest.fixture
def lowered(tmp_path):
    """``lowered(*overrides)``: the graph of the small recipe, with the model's digest as given."""
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    write_parts(tmp_path / "model")

    def make(*overrides, host=HOST, weights="w", recipe=RECIPE + VERIFY, config=CONFIG):
        def digest(path: Path) -> str:
            return f"{path.name}-{weights}"

        (variant,) = load(tmp_path, recipe, *overrides, config=config).variants
        return lower(variant, PlanContext(host, digest))

    return make


def by_step(graph):
    return {action.step: action for action in graph.actions}


def changed(one, other):
    """Steps whose definition keys differ."""
    first, second = by_step(one), by_step(other)
    assert set(first) == set(second)
    return {step for step in first if first[step].definition_key != second[step].definition_key}


def test_a_recipe_becomes_these_actions_producers_first(lowered):
    graph = lowered()
    assert [action.step for action in graph.actions] == ALL
    assert [action.label for action in graph.actions] == [f"small/{step}" for step in ALL]
    known = set()
    for action in graph.actions:
        assert set(action.inputs.values()) <= known
        known.add(action.definition_key)
    assert by_step(graph)["assemble"].definition_key == graph.engine


def test_nothing_is_quantized_that_need_not_be(lowered):
    graph = lowered("engine.quantization=none")
    assert "quantize" not in by_step(graph)
    actions = by_step(graph)
    assert actions["assemble"].inputs["checkpoint"] == actions["convert"].definition_key


def test_nothing_is_verified_unless_the_recipe_asks(lowered):
    assert "verify" not in by_step(lowered(recipe=RECIPE))


def test_what_is_compiled_takes_nothing_but_shapes_so_that_fine_tunes_share_it(lowered):
    for step in ("build_llm", "build_visual"):
        action = by_step(lowered())[step]
        assert not action.inputs
        assert not action.sources
        assert not action.locators
    rest = set(ALL) - {"build_llm", "build_visual"}
    assert changed(lowered(), lowered(weights="other")) == rest


def with_tower(lowered, **values):
    config = copy.deepcopy(CONFIG)
    config["vision_config"].update(values)
    return by_step(lowered(config=config))["build_visual"].definition_key


@pytest.mark.parametrize(
    "values",
    [
        {"projection_dim": 99},
        {"initializer_range": 0.5},
        {"attention_dropout": 0.1},
        {"_name_or_path": "/home/someone/tower"},
        {"torch_dtype": "float16"},
        {"transformers_version": "4.31.0"},
        {"layer_norm_eps": 1e-5},
        {"num_channels": 3},
    ],
)
def test_what_does_not_shape_the_tower_is_in_no_key(lowered, values):
    assert with_tower(lowered, **values) == with_tower(lowered)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 64},
        {"intermediate_size": 99},
        {"num_hidden_layers": 5},
        {"num_attention_heads": 2},
        {"hidden_act": "gelu"},
        {"layer_norm_eps": 1e-6},
    ],
)
def test_another_tower_has_another_key(lowered, values):
    assert CONFIG["vision_config"] != {**CONFIG["vision_config"], **values}
    assert with_tower(lowered, **values) != with_tower(lowered)


def test_the_visual_weights_are_those_of_one_dtype_for_all_limits_and_machines(lowered):
    other = {"device": "cpu", "sm": None, "isa": "avx512"}
    assert "convert_visual" not in changed(lowered(), lowered("engine.max_batch_size=3"))
    assert "convert_visual" not in changed(lowered(), lowered(host=other))
    assert "convert_visual" in changed(lowered(), lowered("visual.dtype=float16"))
    action = by_step(lowered())["convert_visual"]
    assert action.params["dtype"] == "float32"
    assert set(action.inputs) == {"model"}
    assert not action.target


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("engine.quantization=int4", {"quantize", "build_llm", "assemble", "measure", "verify"}),
        ("engine.dtype=float16", set(ALL) - {"download"}),
        ("engine.max_output_len=65", {"build_llm", "assemble", "measure", "verify"}),
        ("engine.max_batch_size=3", {"build_llm", "build_visual", "assemble", "measure", "verify"}),
        ("verify.prompts=[what]", {"measure", "verify"}),
        ("verify.max_new_tokens=5", {"measure", "verify"}),
        ("gates={max_kl: 0.5}", {"verify"}),
        ("name=other", set()),
    ],
)
def test_a_change_rebuilds_what_depends_on_it_and_nothing_else(lowered, override, expected):
    assert changed(lowered(), lowered(override)) == expected


def test_all_precisions_of_a_model_share_one_visual_engine(lowered):
    keys = {
        by_step(lowered(f"engine.quantization={name}"))["build_visual"].definition_key
        for name in ("none", "int8", "int4")
    }
    assert len(keys) == 1


def test_another_machine_shares_what_does_not_depend_on_it(lowered):
    other = {"device": "cpu", "sm": None, "isa": "avx512"}
    assert changed(lowered(), lowered(host=other)) == {
        "build_llm",
        "build_visual",
        "assemble",
        "measure",
        "verify",
    }


def test_a_stated_target_goes_before_the_host(lowered):
    override = "target={device: cpu, isa: avx512}"
    host = {"device": "cuda", "sm": 90, "isa": "avx2"}
    action = by_step(lowered(override, host=host))["build_llm"]
    assert action.target == {"device": "cpu", "sm": None, "isa": "avx512"}
    assert action.resources.gpus == 0


def test_on_cuda_compiling_and_measuring_take_a_gpu_and_converting_none(lowered):
    host = {"device": "cuda", "sm": 90, "isa": "avx2"}
    gpus = {step: action.resources.gpus for step, action in by_step(lowered(host=host)).items()}
    assert {step for step, count in gpus.items() if count} == {"build_llm", "build_visual", "measure"}


def test_measuring_takes_a_gpu_for_each_rank(lowered):
    host = {"device": "cuda", "sm": 90, "isa": "avx2"}
    actions = by_step(lowered("engine.tensor_parallel=2", host=host))
    assert actions["measure"].resources.gpus == 2
    assert actions["build_llm"].resources.gpus == 1


def test_actions_that_compile_share_their_gpu_and_those_that_measure_do_not(lowered):
    actions = by_step(lowered(host={**HOST, "device": "cuda", "sm": 90}))
    assert {step for step, action in actions.items() if action.resources.gpus} == {
        "build_llm",
        "build_visual",
        "measure",
    }
    assert {step for step, action in actions.items() if action.resources.gpu_shared} == {
        "build_llm",
        "build_visual",
    }


def test_numbers_of_the_recipe_reach_the_steps(lowered):
    actions = by_step(lowered())
    llm = actions["build_llm"].params
    assert (llm["max_batch_size"], llm["max_input_len"], llm["max_output_len"]) == (2, 128, 64)
    assert llm["max_multimodal_len"] == 2 * 3 * FEATURES
    assert llm["quant_algo"] == "W8A16"
    sizes = llm["llm"]
    assert (sizes["num_attention_heads"], sizes["num_key_value_heads"], sizes["head_size"]) == (8, 4, 8)
    visual = actions["build_visual"].params
    assert visual["max_batch_size"] == 2 * 3
    assert visual["num_visual_features"] == FEATURES
    checkpoint = actions["convert"].params
    assert (checkpoint["family"], checkpoint["dtype"], checkpoint["tensor_parallel"]) == (
        "llava",
        "float32",
        1,
    )
    assert (checkpoint["llm"]["num_hidden_layers"], llm["llm"]["num_hidden_layers"]) == (2, 1)


def test_models_that_differ_in_depth_alone_share_their_packages(lowered):
    def of_depth(layers):
        config = copy.deepcopy(CONFIG)
        config["text_config"]["num_hidden_layers"] = layers
        return by_step(lowered(config=config))

    few, many = of_depth(2), of_depth(7)
    assert few["build_llm"].definition_key == many["build_llm"].definition_key
    assert few["convert"].definition_key != many["convert"].definition_key
    assert few["build_llm"].resources.memory == many["build_llm"].resources.memory


def test_llm_parameters_are_an_engine_config(lowered):
    from mmbuild.backends.torch.config import from_json

    config = from_json(by_step(lowered())["build_llm"].params)
    assert config.max_seq_len == 192
    assert config.kv_bytes_per_token == 2 * 4 * 8 * 4  # of the one layer that is compiled


def test_verify_asks_no_more_tokens_than_the_engine_has(lowered):
    assert by_step(lowered())["measure"].params["max_new_tokens"] == 64


def test_pictures_are_in_the_key_by_content_and_not_by_place(lowered):
    action = by_step(lowered())["measure"]
    assert set(action.sources) == set(action.locators) == {"image0", "image1"}
    assert action.sources["image0"] == "a.png-w"
    assert not any("/" in str(value) for value in (*action.params.values(), *action.sources.values()))


def test_no_key_contains_the_project_s_path(tmp_path):
    def keys(directory):
        write_parts(directory / "model")
        (variant,) = load(directory, RECIPE).variants
        graph = lower(variant, PlanContext(HOST, lambda path: path.name))
        return [action.definition_key for action in graph.actions]

    assert keys(tmp_path / "one") == keys(tmp_path / "other")


@pytest.mark.parametrize("part", PARTS)
def test_an_incomplete_directory_is_refused_before_anything_is_read(lowered, tmp_path, part):
    lowered()
    (tmp_path / "model" / part).unlink()
    error = refused(MmbuildError, "MM402", lowered)
    assert part in error.message
    assert str(tmp_path / "model") in error.message


def test_a_missing_torch_is_reported_with_the_install_command(lowered, monkeypatch):
    def missing(package):
        raise local_environment.metadata.PackageNotFoundError(package)

    local_environment._installed.cache_clear()
    monkeypatch.setattr(local_environment.metadata, "version", missing)
    error = refused(MissingPackageError, "MM230", lowered)
    monkeypatch.undo()
    local_environment._installed.cache_clear()
    assert "`torch`" in error.message
    assert "pip install" in error.hint


def test_an_unreadable_tokenizer_is_reported_before_anything_is_built(tmp_path, monkeypatch):
    write_parts(tmp_path / "model")
    (variant,) = load(tmp_path, RECIPE).variants
    (tmp_path / "model" / "tokenizer.json").rename(tmp_path / "model" / "tokenizer.model")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else found(name)
    )
    error = refused(MissingPackageError, "MM230", lower, variant, PlanContext(HOST, str))
    assert "tokenizer.model needs `sentencepiece`" in error.message
    assert "sentencepiece" in error.hint
