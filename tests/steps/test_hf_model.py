"""Steps hf_model and hf_card: the files next to the weights."""

from __future__ import annotations

import json
import shutil

import pytest

from mmbuild.backends.engine_dir import description
from mmbuild.core.steps.context import StepContext
from mmbuild.evaluation.bounds import bounds
from mmbuild.steps import hf_card
from mmbuild.steps.measure import MEASURES
from support.hf.checkpoints import FAMILIES, checkpoint
from support.reports import question


def card_of(tmp_path, directory, measures=None, **changes):
    inputs = {"checkpoint": directory}
    if measures is not None:
        (tmp_path / "measures").mkdir()
        (tmp_path / "measures" / MEASURES).write_text(json.dumps(measures))
        inputs["measures"] = tmp_path / "measures"
    out = tmp_path / "out"
    out.mkdir()
    params = {
        "name": "shapes",
        "source": "hf://owner/shapes",
        "revision": "abc",
        "algorithm": "int4",
        "calibration": None,
        "gates": bounds("int4", {}),
        **changes,
    }
    hf_card.run(StepContext(params=params, inputs=inputs, out=out))
    return (out / "README.md").read_text(), out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_config_is_the_model_s_with_format_and_number_format(family, dtype):
    directory = checkpoint(family, "int4", dtype)
    written = json.loads((directory / "config.json").read_text())
    original = json.loads((FAMILIES[family] / "config.json").read_text())
    section = written.pop("quantization_config")
    assert written == {**original, "dtype": dtype}
    (group,) = section["config_groups"].values()
    assert (section["quant_method"], section["format"]) == ("compressed-tensors", "pack-quantized")
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (4, "channel")
    names = {path.name for path in directory.iterdir()}
    assert names - {"engine.json"} == {path.name for path in FAMILIES[family].iterdir()} - {"README.md"}


def test_transformers_reads_the_section_as_it_is_meant():
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationConfig

    for algorithm, group, strategy in (
        ("int4", 64, "group"),
        ("smoothquant", None, "channel"),
        ("fp8", None, "tensor"),
    ):
        config = json.loads((checkpoint("llava", algorithm, "float16", group) / "config.json").read_text())
        read = QuantizationConfig.model_validate(config["quantization_config"])
        (scheme,) = read.config_groups.values()
        assert (scheme.weights.strategy, scheme.weights.group_size) == (strategy, group)
        assert scheme.weights.symmetric
        inputs = scheme.input_activations
        assert (None if inputs is None else (inputs.strategy, inputs.dynamic)) == {
            "int4": None,
            "smoothquant": ("token", True),
            "fp8": ("tensor", False),
        }[algorithm]


def test_older_readers_find_the_number_format_where_the_model_has_it():
    from mmbuild.backends.hf.config_json import config_json

    source = {
        "torch_dtype": "float32",
        "text_config": {"torch_dtype": "float32", "a": 1},
        "vision_config": {"b": 2},
    }
    assert config_json(source, "float16", None) == {
        "torch_dtype": "float16",
        "text_config": {"torch_dtype": "float16", "a": 1},
        "vision_config": {"b": 2},
    }


def test_the_description_can_be_read_and_states_what_a_server_needs():
    read = description.read(checkpoint("blip2-opt", "fp8", "float16"))
    assert (read.backend, read.llm["quant_algo"], read.llm["tensor_parallel"]) == ("hf", "FP8", 1)
    assert read.llm["serving"]["max_model_len"] == 168


def test_a_card_without_measurements_says_so(tmp_path):
    text, out = card_of(tmp_path, checkpoint("llava", "int4"))
    assert "Nothing was measured" in text
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "base_model: owner/shapes\n" in text
    assert "`hf://owner/shapes` at `abc` quantized with `int4`" in text
    assert "came without a license file" in text
    assert (out / "model.safetensors").stat().st_size > 0


def test_a_card_has_measured_numbers_and_names_the_license(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(checkpoint("llava", "int4"), directory)
    (directory / "LICENSE").write_text("terms")
    (directory / "NOTICE").write_text("notice")
    measures = {
        "questions": [question(0.01)],
        "reference": {"program": "transformers", "version": "5.17", "dtype": "float32", "device": "cpu"},
        "summary": {"questions": 1, "tokens": 3, "equal_tokens": 3},
    }
    text, _ = card_of(tmp_path, directory, measures, calibration="512 samples of `a.jsonl`")
    assert (
        "Transformers 5.17 ran this directory and the original model in float32 on a CPU: 1 questions" in text
    )
    assert "at most 0.06: passed" in text
    assert "The terms of the original model apply: LICENSE, NOTICE." in text
    assert "license_link: LICENSE" in text
    assert "Calibrated on 512 samples of `a.jsonl`." in text


def test_metadata_of_a_card_is_yaml(tmp_path):
    import yaml

    text, _ = card_of(tmp_path, checkpoint("llava", "int4"))
    _, head, _ = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "base_model": "owner/shapes",
        "base_model_relation": "quantized",
    }


def without(tmp_path, family, **left_out):
    """A demo model without some fields of its processor and, for llava, without its chat template."""
    model = tmp_path / "older"
    shutil.copytree(FAMILIES[family], model)
    path = model / "processor_config.json"
    stated = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in stated.items() if name not in left_out["fields"]})
    )
    (model / "chat_template.jinja").unlink(missing_ok=True)
    return model, stated


def test_files_of_older_models_are_completed_for_servers(tmp_path):
    fields = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    model, stated = without(tmp_path, "llava", fields=fields)
    directory = checkpoint("llava", "none", model=model)
    assert json.loads((directory / "processor_config.json").read_text()) == stated
    assert "<image>" in (directory / "chat_template.jinja").read_text()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(directory, backend="pil")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]}]
    assert "<image>" in processor.apply_chat_template(turn, add_generation_prompt=True)


def test_the_number_of_queries_is_completed(tmp_path):
    model, stated = without(tmp_path, "blip2-opt", fields=("num_query_tokens",))
    directory = checkpoint("blip2-opt", "none", model=model)
    written = json.loads((directory / "processor_config.json").read_text())
    assert written == {**stated, "num_query_tokens": 16}
    assert not (directory / "chat_template.jinja").exists()


def test_complete_files_are_not_touched():
    for family, model in FAMILIES.items():
        for name in ("processor_config.json", "tokenizer.json"):
            assert (checkpoint(family, "none") / name).read_bytes() == (model / name).read_bytes()
