"""Names: tables against the models that transformers builds, and configs whose names miss a program's modules."""

from __future__ import annotations

import re

import pytest
import torch

from mmbuild.backends.hf import names, names_found
from mmbuild.backends.hf.consumers.load import NAMES, consumer
from mmbuild.backends.hf.forms import FORMS, quantization_config
from mmbuild.backends.hf.sites import linear_names
from support.hf.checkpoints import FAMILIES, facts

PAIRS = [(name, family) for name in NAMES for family in consumer(name).families]


def section(family, targets=None, ignore=None):
    return quantization_config(
        FORMS["int4"],
        None,
        names.targets(family, facts(family).llm) if targets is None else targets,
        names.ignored(family) if ignore is None else ignore,
    )


def found(name, family, config):
    return list(names_found.findings(consumer(name), family, linear_names(facts(family).llm), config))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_transformers_lists_the_linear_modules_that_it_builds(family):
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(FAMILIES[family]))
    built = {
        re.sub(r"\.\d+\.", ".0.", name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    table = consumer("transformers").families[family]
    listed = list(names_found.modules(table, linear_names(facts(family).llm)))
    assert {module.name for module in listed} == built
    assert {module.name for module in listed if module.quantized} == {
        name for name in built if names.matches(name, names.targets(family, facts(family).llm))
    }


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_mmbuild_s_own_names_fit_every_program(name, family):
    assert found(name, family, section(family)) == []


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_every_name_is_needed_or_harmless_and_a_damaged_one_is_found(name, family):
    entries = names.ignored(family)
    for place, entry in enumerate(entries):
        damaged = [*entries[:place], "re:" + entry[3:].replace("e", "3", 1), *entries[place + 1 :]]
        assert any(
            finding.entry == damaged[place]
            for finding in found(name, family, section(family, ignore=damaged))
        )


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_target_that_misses_the_decoder_is_found(name, family):
    findings = found(name, family, section(family, targets=["re:.*no_such_model.*"]))
    assert any("is quantized, but no target names it" in finding.message for finding in findings)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_ignoring_a_quantized_module_is_found(name, family):
    findings = found(name, family, section(family, ignore=[*names.ignored(family), "re:.*layers.*"]))
    assert any("but `ignore` names it as `re:.*layers.*`" in finding.message for finding in findings)


@pytest.mark.parametrize("family", FAMILIES)
def test_ignoring_a_part_of_what_vllm_runs_as_one_is_found(family):
    findings = found("vllm", family, section(family, ignore=[*names.ignored(family), "re:.*k_proj"]))
    assert any("names only a part of" in finding.message for finding in findings)


def test_sglang_refuses_modules_that_nothing_names_and_vllm_does_not():
    config = section("llava", ignore=["re:.*lm_head", "re:.*multi_modal_projector.*"])
    assert any("SGLang" in finding.message for finding in found("sglang", "llava", config))
    assert found("vllm", "llava", config) == []


def test_a_tower_that_a_target_names_is_found():
    config = section("llava", targets=["re:.*layers.*"], ignore=["re:.*lm_head"])
    findings = found("vllm", "llava", config)
    assert any(
        "vision_tower" in finding.message and "not quantized" in finding.message for finding in findings
    )


def test_names_written_for_the_files_do_not_fit_transformers():
    """The disease: transformers 5 has no `language_model.model.layers`."""
    targets = [f"language_model.model.layers.0.{name}" for name in linear_names(facts("llava").llm)]
    assert found("vllm", "llava", section("llava", targets=targets)) == []
    assert found("transformers", "llava", section("llava", targets=targets))


def test_what_no_pattern_is_for_literal_names():
    assert names.matches("lm_head", ["lm_head"]) == "lm_head"
    assert names.matches("model.lm_head", ["lm_head"]) is None
    assert names.matches("model.lm_head", ["re:.*lm_head"]) == "re:.*lm_head"


def test_the_real_matcher_of_compressed_tensors_agrees():
    matching = pytest.importorskip("compressed_tensors.utils.match")
    for family in FAMILIES:
        table = consumer("transformers").families[family]
        for module in names_found.modules(table, linear_names(facts(family).llm)):
            for entry in (*names.targets(family, facts(family).llm), *names.ignored(family)):
                assert matching.match_name(module.name, entry) is (
                    names.matches(module.name, [entry]) is not None
                )
