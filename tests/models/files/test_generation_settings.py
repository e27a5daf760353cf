"""Generation settings are read as transformers reads them, and what it cannot generate with is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Blip2ForConditionalGeneration,
    GenerationConfig,
    LlamaForCausalLM,
)

from mmbuild.base.codes import codes
from mmbuild.models.families import family
from mmbuild.models.files.generation_fields import dropped_by_config_classes, fields
from mmbuild.models.files.generation_settings import (
    Reader,
    SettingsError,
    SettingsPlace,
    not_passed,
    read_directory,
    read_settings,
    runner_findings,
)
from support.engines.sessions import START, VOCABULARY, generated, llama, t5
from support.errors import refused
from support.marks import slow_except
from support.models import tiny_families, tiny_llava
from support.models.tiny_text import tokenizer

PRIVATE = {"_commit_hash", "_from_model_config", "_original_object_hash"}


def read(content: dict[str, Any] | None, config: dict[str, Any] | None = None, **reader: Any):
    files = {"generation_config.json": content, "config.json": config or {}}
    return read_settings(files.get, SettingsPlace(), Reader(**{"vocab_size": 50, **reader}), "some/model")


def test_every_field_of_transformers_is_in_the_table_and_no_other():
    theirs = set(vars(GenerationConfig())) - PRIVATE
    assert set(fields()) == theirs


def test_fields_that_config_classes_drop_match_transformers():
    assert set(dropped_by_config_classes()) == set(GenerationConfig._get_default_generation_params())


def test_every_field_says_what_it_does_or_why_it_is_not_applied():
    for row in fields().values():
        assert row.effect in ("obeyed", "beams", "reported", "none"), row.name
        assert len(row.why) > 10, row.name
        assert row.form or row.effect in ("reported", "none"), row.name


# --- What counts, for each family, against the model that transformers loads. ---

token = st.integers(0, 40)
WRITTEN = st.fixed_dictionaries(
    {},
    optional={
        "eos_token_id": st.none() | token | st.lists(token, min_size=1, max_size=3),
        "bos_token_id": st.none() | token,
        "decoder_start_token_id": st.none() | token,
        "forced_eos_token_id": st.none() | token,
        "repetition_penalty": st.sampled_from([None, 1.0, 1.5]),
        "no_repeat_ngram_size": st.sampled_from([None, 0, 3]),
        "min_new_tokens": st.sampled_from([None, 0, 4]),
        "suppress_tokens": st.sampled_from([None, [], [41, 42]]),
        "force_bos_token_to_be_generated": st.booleans(),
        "length_penalty": st.sampled_from([None, 1.0, 2.0]),
        "max_length": st.sampled_from([None, 200]),
        "unknown_key": st.just("x"),
    },
)
FORMS = ("llava", "nougat", "vila", "vila/flat", "blip2-opt", "blip2-t5", "blip2-opt/two", "blip2-t5/two")
SECTIONS = {
    "llava": "text_config",
    "nougat": "decoder",
    "blip2-opt": "text_config",
    "blip2-t5": "text_config",
}


def save(form: str, root: Path) -> Path:
    """A small model, and the directory of its files."""
    name, _, kind = form.partition("/")
    if name == "llava":
        tiny_llava.save_random_model(root, 1)
    elif kind == "two":
        return tiny_families.save_in_two(name, 1, root)["model"]
    elif name == "vila":
        saved = tiny_families.save_flat_vila(1, root) if kind else tiny_families.save_vila(1, root / "model")
        return saved["model"]
    else:
        tiny_families.save_model(name, 1, root)
    return root


def loaded(form: str, model: Path) -> GenerationConfig:
    """The settings that transformers generates with."""
    name, _, kind = form.partition("/")
    if name == "vila":
        return LlamaForCausalLM.from_pretrained(model if kind else model / "llm").generation_config
    if kind == "two":
        if name == "blip2-opt":
            return AutoModelForCausalLM.from_pretrained(model).generation_config
        return tiny_families.TEXT[name].from_pretrained(model).generation_config
    if name in ("llava", "nougat"):
        return AutoModelForImageTextToText.from_pretrained(model).generation_config
    return Blip2ForConditionalGeneration.from_pretrained(model).language_model.generation_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return {form: save(form, tmp_path_factory.mktemp("model") / "root") for form in FORMS}


def lay(model: Path, name: str, content: dict[str, Any] | None) -> None:
    if content is None:
        (model / name).unlink(missing_ok=True)
    else:
        (model / name).write_text(json.dumps(content))


def stripped(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in config.items() if not key.endswith("token_id") and "forced" not in key
    }


@pytest.mark.parametrize("form", slow_except(FORMS, "llava", "nougat", "blip2-t5/two"))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_settings_are_those_of_the_model_that_transformers_loads(saved, form, data):
    model, name = saved[form], form.partition("/")[0]
    inner = model / "llm" if form == "vila" else model
    original = json.loads((inner / "config.json").read_text())
    config = {**stripped(original), **data.draw(WRITTEN)}
    section = SECTIONS.get(name)
    if section and "/" not in form:
        config[section] = {**stripped(original[section]), **data.draw(WRITTEN)}
    try:
        lay(inner, "config.json", config)
        lay(model, "generation_config.json", data.draw(st.none() | WRITTEN))
        if form == "vila":
            lay(inner, "generation_config.json", data.draw(st.none() | WRITTEN))
        theirs = loaded(form, model)
        outer = json.loads((model / "config.json").read_text())
        encoder_decoder = family(name).TRAITS.encoder_decoder
        place = family(name).settings_place(outer)
        ours = read_directory(model, place, Reader(encoder_decoder=encoder_decoder, beams=True)).settings
    finally:
        lay(inner, "config.json", original)
    assert ours.eos_token_ids == tuple(listed(theirs.eos_token_id))
    assert dict(ours.fields) == changing(theirs) | (starting(theirs) if encoder_decoder else {})


NEUTRAL: dict[str, list[Any]] = {
    "repetition_penalty": [1.0],
    "no_repeat_ngram_size": [0],
    "min_new_tokens": [0],
    "suppress_tokens": [[]],
    "length_penalty": [1.0],
}


def changing(theirs: GenerationConfig) -> dict[str, Any]:
    """The drawn fields that change something; special tokens are tested separately."""
    found = {name: getattr(theirs, name) for name in ("forced_bos_token_id", "forced_eos_token_id", *NEUTRAL)}
    return {
        name: value
        for name, value in found.items()
        if value is not None and value not in NEUTRAL.get(name, [])
    }


def starting(theirs: GenerationConfig) -> dict[str, Any]:
    """What an encoder-decoder begins with, as ``generate`` chooses it."""
    places = (theirs.decoder_start_token_id, theirs.bos_token_id)
    found = [value for value in places if value is not None]
    return {"decoder_start_token_id": found[0]} if found else {}


def listed(value: Any) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


# --- What is refused. ---

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"eos_token_id": "2"}, "eos_token_id"),
    ({"eos_token_id": [2, "3"]}, "eos_token_id"),
    ({"eos_token_id": [[2]]}, "eos_token_id"),
    ({"decoder_start_token_id": "s"}, "decoder_start_token_id"),
    ({"bos_token_id": {"id": 1}}, "bos_token_id"),
    ({"repetition_penalty": 2}, "repetition_penalty"),
    ({"repetition_penalty": "1.2"}, "repetition_penalty"),
    ({"repetition_penalty": -1.5}, "repetition_penalty"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"encoder_repetition_penalty": 3}, "encoder_repetition_penalty"),
    ({"no_repeat_ngram_size": 3.0}, "no_repeat_ngram_size"),
    ({"no_repeat_ngram_size": "3"}, "no_repeat_ngram_size"),
    ({"encoder_no_repeat_ngram_size": [2]}, "encoder_no_repeat_ngram_size"),
    ({"bad_words_ids": []}, "bad_words_ids"),
    ({"bad_words_ids": [5]}, "bad_words_ids"),
    ({"bad_words_ids": [[]]}, "bad_words_ids"),
    ({"bad_words_ids": [[5, -1]]}, "bad_words_ids"),
    ({"bad_words_ids": [[VOCABULARY]]}, "bad_words_ids"),
    ({"sequence_bias": {"5": 1.0}}, "sequence_bias"),
    ({"sequence_bias": [[[5], 1]]}, "sequence_bias"),
    ({"sequence_bias": [[[0], 1.0]]}, "sequence_bias"),
    ({"sequence_bias": []}, "sequence_bias"),
    ({"sequence_bias": [[[VOCABULARY], 1.0]]}, "sequence_bias"),
    ({"min_length": "5"}, "min_length"),
    ({"min_length": 5.5}, "min_length"),
    ({"min_new_tokens": 2.5}, "min_new_tokens"),
    ({"forced_bos_token_id": VOCABULARY}, "forced_bos_token_id"),
    ({"forced_bos_token_id": "x"}, "forced_bos_token_id"),
    ({"forced_eos_token_id": -3}, "forced_eos_token_id"),
    ({"forced_eos_token_id": [VOCABULARY + 4]}, "forced_eos_token_id"),
    ({"forced_eos_token_id": 5, "suppress_tokens": [4, 5]}, "forced_eos_token_id"),
    ({"forced_bos_token_id": 5, "suppress_tokens": [5]}, "forced_bos_token_id"),
    ({"suppress_tokens": 5}, "suppress_tokens"),
    ({"suppress_tokens": ["5"]}, "suppress_tokens"),
    ({"begin_suppress_tokens": 5}, "begin_suppress_tokens"),
    ({"begin_suppress_tokens": [[5]], "suppress_tokens": ["x"]}, "suppress_tokens"),
    ({"exponential_decay_length_penalty": 1.2}, "exponential_decay_length_penalty"),
    ({"exponential_decay_length_penalty": [5]}, "exponential_decay_length_penalty"),
    ({"exponential_decay_length_penalty": [1, "a"]}, "exponential_decay_length_penalty"),
    (
        {"exponential_decay_length_penalty": [1, 1.5], "eos_token_id": None},
        "exponential_decay_length_penalty",
    ),
    (
        {"exponential_decay_length_penalty": [1, 1.5], "eos_token_id": [2, VOCABULARY]},
        "exponential_decay_length_penalty",
    ),
    ({"early_stopping": "soon"}, "early_stopping"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": "20"}, "max_new_tokens"),
    ({"stop_strings": []}, "stop_strings"),
    ({"stop_strings": [3]}, "stop_strings"),
    ({"pad_token_id": "0"}, "pad_token_id"),
    ({"pad_token_id": [0]}, "pad_token_id"),
    ({"pad_token_id": 1 << 80}, "pad_token_id"),
    ({"top_k": "50"}, "top_k"),
    ({"top_k": [50]}, "top_k"),
]


@pytest.mark.parametrize(("written", "name"), REFUSED)
def test_what_transformers_cannot_generate_with_is_refused_by_name(written, name):
    written = {"eos_token_id": 2, "decoder_start_token_id": START, **written}
    reading = read(written, vocab_size=VOCABULARY, encoder_decoder=True, beams=True)
    errors = [item for item in reading.findings if item.severity == "error"]
    assert name in {item.message.split("`")[3] for item in errors}
    for item in errors:
        assert item.code == "MM721"
        assert item.message.startswith("`some/model/generation_config.json` sets `")
        assert item.hint
        assert item.code in codes()
    assert json.dumps(written[name])[:20] in " ".join(item.message for item in errors)
    error = refused(SettingsError, "MM721", reading.require)
    assert error.message == errors[0].message
    transformers_fails(written)


def transformers_fails(written: dict[str, Any]) -> None:
    """One of the ways in which the engines' families generate."""
    failures, letters = 0, tokenizer(VOCABULARY)
    for model, seen in ((llama(1), "ids"), (t5(1), "decoder ids")):
        try:
            generated(model, [5, 6, 5], written, seen=seen, new_tokens=4, tokenizer=letters, num_beams=2)
            found = generated(model, [5, 6, 5], written, seen=seen, new_tokens=4, tokenizer=letters)
            failures += not found
        except Exception:
            failures += 1
    assert failures, "transformers generates with it"


# Values that look odd and that transformers takes.
TAKEN: list[dict[str, Any]] = [
    {"repetition_penalty": 1},
    {"no_repeat_ngram_size": -1, "min_length": -4, "min_new_tokens": 0},
    {"suppress_tokens": [], "begin_suppress_tokens": []},
    {"suppress_tokens": [-1, 400]},
    {"bad_words_ids": [[2]]},
    {"exponential_decay_length_penalty": [2.5, 1]},
    {"eos_token_id": [2, 2, 900]},
    {"early_stopping": "never", "length_penalty": 2},
    {"stop_strings": "b"},
    {"pad_token_id": 2.0, "top_k": 0.5},
    {"pad_token_id": -1, "top_k": True},
]


@pytest.mark.parametrize("written", TAKEN)
def test_what_transformers_accepts_is_not_an_error(written):
    written = {"eos_token_id": 2, "decoder_start_token_id": START, **written}
    assert not read(written, vocab_size=VOCABULARY, encoder_decoder=True).findings
    letters = tokenizer(VOCABULARY)
    assert generated(llama(1), [5, 6, 5], written, seen="ids", new_tokens=4, tokenizer=letters)


@pytest.mark.parametrize("name", ["bos_token_id", "decoder_start_token_id"])
@pytest.mark.parametrize("value", ["1", "", {}, [None], ["1"], 1 << 80, [1], 1.0, True, -1, [], 900])
def test_ids_that_nothing_reads_are_refused_if_transformers_fails_with_them(name, value):
    written = {"eos_token_id": 2, "pad_token_id": 0, name: value}
    try:
        found = generated(llama(1), [5, 6, 5], written, seen="ids", new_tokens=4)
    except (TypeError, ValueError):
        found = []
    errors = [item.code for item in read(written, vocab_size=VOCABULARY).findings]
    assert errors == ([] if found else ["MM721"])


def test_all_wrong_fields_are_reported_at_once():
    reading = read({"min_length": "a", "suppress_tokens": 3, "eos_token_id": 2})
    assert {item.message.split("`")[3] for item in reading.findings} == {"min_length", "suppress_tokens"}


def test_an_id_outside_the_vocabulary_is_reported_with_its_size():
    (finding,) = read({"eos_token_id": 2, "forced_bos_token_id": 50}).findings
    assert finding.message.endswith(
        "`forced_bos_token_id` to 50: expected a token id of the vocabulary of 50"
    )
    assert not read({"eos_token_id": 2, "forced_bos_token_id": 50}, vocab_size=None).findings


# --- What is reported. ---

REPORTED: dict[str, Any] = {
    "guidance_scale": 1.5,
    "watermarking_config": {"greenlist_ratio": 0.3},
    "token_healing": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "constraints": [{}],
    "force_words_ids": [[5]],
    "num_beam_groups": 2,
    "max_time": 3.5,
    "is_assistant": True,
    "cache_implementation": "quantized",
}


def test_every_reported_field_is_tried():
    assert set(REPORTED) == {name for name, row in fields().items() if row.effect == "reported"}


@pytest.mark.parametrize("name", sorted(REPORTED))
def test_a_field_that_is_not_applied_is_reported_with_its_value(name):
    reading = read({"eos_token_id": 2, name: REPORTED[name]}, beams=True)
    (finding,) = reading.findings
    assert (finding.code, finding.severity) == ("MM720", "warning")
    value = json.dumps(REPORTED[name])
    assert f"`some/model/generation_config.json` sets `{name}` to {value}, which" in finding.message
    assert "engine.generation_config" in finding.hint
    assert dict(reading.settings.not_applied) == {name: REPORTED[name]}


@pytest.mark.parametrize(
    "written",
    [
        {"guidance_scale": 1.0, "penalty_alpha": 0, "is_assistant": False, "cache_implementation": "static"},
        {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 3, "num_beams": 5, "max_length": 4096},
        {"num_beam_groups": 2},
        {"pad_token_id": 32001, "transformers_version": "4.36.0.dev0", "_from_model_config": True, "new": 1},
    ],
)
def test_what_changes_no_greedy_token_is_not_reported(written):
    reading = read({"eos_token_id": 2, **written})
    assert not reading.findings
    assert not reading.settings.fields


@pytest.mark.parametrize(
    ("content", "config"),
    [({}, {"eos_token_id": 2}), ({"eos_token_id": None}, {}), ({"eos_token_id": []}, {}), (None, {})],
)
def test_a_model_without_end_tokens_is_reported(content, config):
    reading = read(content, config)
    assert reading.settings.eos_token_ids == ()
    (finding,) = reading.findings
    assert finding.code == "MM723"
    assert reading.where in finding.message


def test_of_ignored_settings_end_tokens_and_the_start_token_are_read():
    written = {"eos_token_id": [2, 9], "decoder_start_token_id": 4, "guidance_scale": 3, "min_length": "bad"}
    reading = read(written, obey=False, encoder_decoder=True)
    assert not reading.findings
    assert reading.settings.eos_token_ids == (2, 9)
    assert dict(reading.settings.fields) == {"decoder_start_token_id": 4}
    assert read({"eos_token_id": "x"}, obey=False).findings[0].code == "MM721"


def test_settings_next_to_the_outer_config_of_vila_are_reported_if_they_differ():
    place = family("vila").settings_place({"llm_cfg": {}})
    outer = {"eos_token_id": [2, 77], "repetition_penalty": 1.3, "top_k": 5, "bos_token_id": 1}
    files = {
        "generation_config.json": outer,
        "llm/generation_config.json": {"eos_token_id": [2, 77]},
        "llm/config.json": {"eos_token_id": 5},
    }
    reading = read_settings(files.get, place, label="m")
    assert reading.settings.eos_token_ids == (2, 77)
    (finding,) = reading.findings
    assert (finding.code, finding.severity) == ("MM724", "warning")
    assert finding.message.startswith("`m/generation_config.json` sets `repetition_penalty` to 1.3")
    assert "llm/generation_config.json" in finding.hint


def test_settings_next_to_a_complete_blip_2_are_reported_if_they_differ():
    text = {"model_type": "opt", "eos_token_id": 50118}
    config = {"model_type": "blip-2", "text_config": text}
    place = family("blip2-opt").settings_place(config)
    files = {"config.json": config, "generation_config.json": {"eos_token_id": 50118, "num_beams": 5}}
    assert not read_settings(files.get, place).findings
    files["generation_config.json"] = {"eos_token_id": 7, "suppress_tokens": [4]}
    found = read_settings(files.get, place).findings
    assert [item.code for item in found] == ["MM724", "MM724"]
    assert "text_config" in found[0].message


def test_tensorrt_llm_s_runner_is_not_given_what_the_engine_would_obey():
    written = {"eos_token_id": [2, 7], "repetition_penalty": 1.3, "length_penalty": 2.0}
    reading = read({**written, "decoder_start_token_id": 4}, encoder_decoder=True, beams=True)
    data = {"eos_token_id": [2, 7], "repetition_penalty": 1.3}
    assert dict(not_passed(reading.settings, beams=False)) == data
    found = list(runner_findings(reading, beams=True))
    assert [item.message.split("`")[3] for item in found] == list(written)
    assert {item.code for item in found} == {"MM725"}
    assert not not_passed(read({"eos_token_id": [2, 2]}).settings, beams=True)


# --- Files. ---


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{", "is not JSON"),
        (b"[2]", "holds a JSON array instead of an object"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-LFS pointer"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, data, problem):
    (tmp_path / "generation_config.json").write_bytes(data)
    error = refused(SettingsError, "MM722", read_directory, tmp_path, SettingsPlace(), Reader())
    assert problem in error.message
    assert "generation_config.json" in error.message


def test_a_damaged_file_that_nothing_reads_is_ignored(tmp_path):
    (tmp_path / "generation_config.json").write_text("{")
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text(json.dumps({"eos_token_id": 2}))
    place = family("vila").settings_place({"llm_cfg": {}})
    assert read_directory(tmp_path, place, Reader()).settings.eos_token_ids == (2,)


def test_a_random_vila_without_llm_has_the_settings_of_its_outer_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"llm_cfg": {"eos_token_id": [2, 5]}}))
    place = family("vila").settings_place({"llm_cfg": {}})
    assert read_directory(tmp_path, place, Reader()).settings.eos_token_ids == (2, 5)


def test_reading_imports_neither_torch_nor_transformers():
    program = (
        "import sys; from mmbuild.models.files.generation_settings import SettingsPlace, read_settings\n"
        "read_settings({'generation_config.json': {'eos_token_id': 2, 'min_length': 3}}.get, SettingsPlace())\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- The table, compared with what transformers generates. ---

WITHOUT_EFFECT: dict[str, Any] = {
    "max_new_tokens": 3,
    "max_length": 7,
    "num_beams": 4,
    "diversity_penalty": 2.0,
    "low_memory": True,
    "do_sample": True,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "top_h": 0.1,
    "min_p": 0.9,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "pad_token_id": 5,
    "use_cache": False,
    "max_cache_len": 9,
    "prefill_chunk_size": 2,
    "disable_compile": True,
    "prompt_lookup_num_tokens": 2,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
    "assistant_ensemble_weight": 0.5,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": False,
    "return_dict_in_generate": False,
    "transformers_version": "4.0.0",
}
# Objects that no file holds, models with further parts, and what transformers refuses for greedy decoding.
NOT_TRIED = {
    "cache_config",
    "compile_config",
    "continuous_batching_config",
    "use_mtp",
    "speculation_type",
    "assistant_early_exit",
    "num_return_sequences",
}
PROMPT = [5, 9, 4, 9]


def ten_tokens(written: dict[str, Any], **options: Any) -> list[int]:
    return generated(llama(6), PROMPT, {"eos_token_id": 2, **written}, seen="ids", new_tokens=10, **options)


def test_every_field_without_effect_is_tried():
    assert set(WITHOUT_EFFECT) == {name for name, row in fields().items() if row.effect == "none"} - NOT_TRIED


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_field_without_effect_changes_no_greedy_token_of_transformers(name):
    assert ten_tokens({name: WITHOUT_EFFECT[name]}) == ten_tokens({})


@pytest.mark.parametrize("name", sorted(set(REPORTED) - {"max_time"}))
def test_a_reported_field_changes_what_transformers_generates_or_stops_it(name):
    beams = {"num_beams": 4} if fields()[name].beams_only else {}
    plain = ten_tokens({}, **beams)
    try:
        found = ten_tokens({name: REPORTED[name]}, **beams)
    except (ValueError, TypeError, ImportError):
        return
    assert found != plain
