"""Engines of every family obey the generation settings of their model as transformers does, greedily and by beams."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mmbuild.backends.torch import Engine
from mmbuild.backends.torch.beam_search import Beams
from mmbuild.models.families import family
from mmbuild.models.files.generation_settings import Reader, SettingsPlace, read_settings
from support.engines import families as family_engines
from support.engines import loaded as engines
from support.engines.build import relaid, with_manifest
from support.models.references import settled

pytestmark = pytest.mark.slow

TOKENS = 12
MODELS = [
    pytest.param("llava", 3, marks=pytest.mark.extended),  # a LLaMA, as VILA's
    ("blip2-opt", 10),
    ("blip2-t5", 10),
    ("nougat", 1),
    ("vila", 1),
    ("vila/flat", 1),
]
# Each together with end tokens of the model's own answers.
SETTINGS = {
    "penalties": {"repetition_penalty": 8.0, "encoder_repetition_penalty": 1.4},
    "n-grams": {"no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2},
    "lengths": {"min_new_tokens": 5, "exponential_decay_length_penalty": [6, 1.5]},
    "whole length": {"min_length": 20},
    "forced": {"forced_bos_token_id": 17, "forced_eos_token_id": 2},
    "beams": {"length_penalty": 2.0, "early_stopping": "never", "renormalize_logits": True},
}
models = pytest.mark.parametrize(("name", "seed"), MODELS)


def built_and_reference(name, seed):
    if name == "llava":
        built = engines.random_engine(seed)
        return built, engines.random_reference(seed), engines.random_requests(built, [3, 9, 1], seed)
    built = family_engines.engine(name, seed)
    requested = family_engines.requests(built, [3, 9, 1], seed)
    return built, family_engines.reference(name, seed), requested


def obeying(monkeypatch, built, written):
    """The engine, as if its model had been assembled with these settings."""
    traits = family(built.description.family).TRAITS
    reader = Reader(built.config.vocab_size, traits.encoder_decoder, beams=True)
    found = read_settings({"generation_config.json": written}.get, SettingsPlace(), reader).require()
    description = dataclasses.replace(
        built.description, eos_token_ids=found.eos_token_ids, generation_settings=found.fields
    )
    monkeypatch.setattr(built, "description", description)


def asked_of_transformers(built, reference, request, written, **options):
    """Nougat's unknown token is never an answer, whatever its settings say."""
    never = [*built.processor.suppressed_token_ids, *written.get("suppress_tokens", [])]
    start = built.config.llm.decoder_start_token_id
    begun = {} if start is None else {"decoder_start_token_id": start}
    settings = {**begun, **written, **({"suppress_tokens": never} if never else {})}
    return settled(reference, request, settings, TOKENS, **options)


@models
@pytest.mark.parametrize("about", SETTINGS)
def test_greedy_tokens_are_transformers_alone_and_in_a_batch(monkeypatch, name, seed, about):
    built, reference, requested = built_and_reference(name, seed)
    endless = built.run(requested, built.stopping(TOKENS, ignore_eos=True)).answers
    # What begins the answers may not, so that every model's change.
    first = sorted({answer.token_ids[0] for answer in endless})
    ends = sorted({2, *(answer.token_ids[9] for answer in endless)} - set(first))
    plain = {"eos_token_id": ends}
    written = {**plain, "begin_suppress_tokens": first, **SETTINGS[about]}
    obeying(monkeypatch, built, written)
    right = [asked_of_transformers(built, reference, request, written) for request in requested]
    assert right != [asked_of_transformers(built, reference, request, plain) for request in requested]
    stopping = built.stopping(TOKENS)
    found = built.run(requested, stopping).answers
    assert [list(answer.token_ids) for answer in found] == right
    assert list(built.run(requested[1:2], stopping).answers[0].token_ids) == right[1]


# The LLaVA of random shapes is built for one beam.
@pytest.mark.parametrize(("name", "seed"), MODELS[1:])
@pytest.mark.parametrize("about", SETTINGS)
def test_beams_are_transformers(monkeypatch, name, seed, about):
    built, reference, requested = built_and_reference(name, seed)
    greedy = built.run(requested, built.stopping(TOKENS, ignore_eos=True)).answers
    written = {"eos_token_id": [2, greedy[0].token_ids[4]], **SETTINGS[about]}
    obeying(monkeypatch, built, written)
    right = [asked_of_transformers(built, reference, item, written, num_beams=3) for item in requested]
    found = built.run(requested, built.stopping(TOKENS), beams=Beams(3)).answers
    assert [list(answer.token_ids) for answer in found] == right


@pytest.mark.parametrize(("name", "seed"), [("blip2-t5", 10), ("nougat", 1)])
def test_answers_begin_with_the_start_token_of_the_settings(tmp_path, name, seed):
    directory = family_engines.directory(name, seed)
    start = {"decoder_start_token_id": 17}
    built = Engine.load(relaid(directory, tmp_path / "engine", generation_settings=start))
    requested, reference = family_engines.requests(built, [3, 5]), family_engines.reference(name, seed)
    written = {**start, "eos_token_id": None}
    right = [asked_of_transformers(built, reference, request, written) for request in requested]
    for stopping in (built.stopping(TOKENS), built.stopping(TOKENS, ignore_generation_config=True)):
        endless = dataclasses.replace(stopping, eos_token_ids=())
        assert [list(answer.token_ids) for answer in built.run(requested, endless).answers] == right
    before = family_engines.engine(name, seed).run(requested, endless).answers
    assert [list(answer.token_ids) for answer in before] != right


def demo_asked():
    built = engines.demo_engine()
    picture = engines.drawn(5, 1)[0][0]
    return built, built.encode([picture], ["describe the picture ."])


def test_an_answer_ends_with_a_stop_string_of_the_model(monkeypatch):
    built, reference, requested = built_and_reference("blip2-opt", 10)
    long = built.run(requested[:1], built.stopping(TOKENS, ignore_eos=True)).answers[0].token_ids
    text = built.processor.tokenizer.decode(long[2:4])
    written = {"eos_token_id": 2, "stop_strings": [text, "never"]}
    obeying(monkeypatch, built, written)
    (answer,) = built.run(requested[:1], built.stopping(TOKENS)).answers
    right = settled(reference, requested[0], written, TOKENS, tokenizer=built.processor.tokenizer)
    assert list(answer.token_ids) == right
    assert 0 < len(right) < TOKENS
    assert "".join(built.stream_text(requested[0], built.stopping(TOKENS))) == answer.text


def test_of_ignored_settings_the_end_tokens_still_count(monkeypatch):
    built, requested = demo_asked()
    plain = built.run(requested, built.stopping()).answers
    ends = list(built.description.eos_token_ids)
    obeying(monkeypatch, built, {"eos_token_id": ends, "suppress_tokens": list(plain[0].token_ids[:2])})
    assert built.run(requested, built.stopping()).answers != plain
    ignoring = built.stopping(ignore_generation_config=True)
    assert ignoring.rules is None
    assert ignoring.eos_token_ids == tuple(ends)
    assert built.run(requested, ignoring).answers == plain
    assert built.generate(
        [engines.drawn(5, 1)[0][0]], ["describe the picture ."], ignore_generation_config=True
    ) == list(plain)


def test_nothing_ends_an_answer_where_ends_are_ignored(monkeypatch):
    built, requested = demo_asked()
    written = {"eos_token_id": 2, "forced_eos_token_id": 2, "stop_strings": "e", "repetition_penalty": 1.2}
    obeying(monkeypatch, built, written)
    stopping = built.stopping(20, ignore_eos=True)
    assert set(stopping.rules.fields) == {"repetition_penalty"}
    assert len(built.run(requested, stopping).answers[0].token_ids) == 20


def test_an_engine_whose_model_has_no_settings_has_no_rules(tmp_path):
    built = engines.demo_engine()
    assert built.description.generation_settings == {}
    assert built.stopping().rules is None
    content = json.loads((built.directory / "engine.json").read_text())
    older = relaid(built.directory, tmp_path / "older")
    del content["generation_settings"], content["settings_not_applied"]
    (older / "engine.json").write_text(json.dumps(content))
    with_manifest(older)
    assert Engine.load(older).stopping() == built.stopping()
