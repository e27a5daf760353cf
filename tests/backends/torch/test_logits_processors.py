"""Generation settings change an engine's tokens as they change those of transformers' ``generate``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmbuild.backends.torch.beam_search import Beams, search
from mmbuild.backends.torch.generate import Stopping, collect, stream
from mmbuild.backends.torch.logits_processors import LogitsRules
from mmbuild.backends.torch.sampling import Sampling
from mmbuild.models.errors import EngineError
from mmbuild.models.files.generation_fields import fields
from mmbuild.models.files.generation_settings import Reader, SettingsPlace, read_settings
from support.engines.sessions import IMAGE, START, VOCABULARY, ModelSession, generated, llama, t5
from support.errors import refused
from support.marks import slow_except
from support.models.tiny_text import tokenizer

SEEN = ("ids", "ids and embeddings", "embeddings", "decoder ids")
NEW_TOKENS = 12
LLAMAS = [llama(seed) for seed in (6, 1, 3)]
T5S = [t5(seed) for seed in (7, 3)]
TOKENIZER = tokenizer(VOCABULARY)
PROMPTS = [[5, 9, 4, 9], [7], [11, 12, 6, 6, 5], [IMAGE, IMAGE, 8], [6]]
ENDS = [2, 8, 5]

# A value of every obeyed field that changes an answer to one of the prompts.
TELLING: dict[str, Any] = {
    "repetition_penalty": 2.0,
    "encoder_repetition_penalty": 5.0,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[18], [4, 5], [11], [5, 7], [22]],
    "sequence_bias": [[[5], 6.0], [[6, 7], -9.0], [[9], -8.5], [[14, 3], -50.0]],
    "min_length": 10,
    "min_new_tokens": 9,
    "forced_bos_token_id": 7,
    "forced_eos_token_id": [9, 10],
    "suppress_tokens": [4, 13, 9, 18, 11, 14],
    "begin_suppress_tokens": [4, 13, 9, 15, 22, 14, 11],
    "exponential_decay_length_penalty": [2, 2.0],
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "stop_strings": ["oo", "k", "pc"],
    "length_penalty": -1.0,
    "early_stopping": True,
    "eos_token_id": [18, 14, 7],
}
# Of beams alone, or of logits that these models do not have.
SILENT = {"remove_invalid_values", "renormalize_logits", "length_penalty", "early_stopping"}
OF_ENCODERS = {"encoder_repetition_penalty", "encoder_no_repeat_ngram_size"}

ids = st.integers(0, VOCABULARY - 1)
some_ids = st.lists(ids, min_size=1, max_size=4)
# A value of each field that is obeyed, drawn so that it often matters.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.sampled_from([0.5, 1.3, 2.0, 10.0]),
    "encoder_repetition_penalty": st.sampled_from([0.5, 1.7, 5.0]),
    "no_repeat_ngram_size": st.integers(1, 4),
    "encoder_no_repeat_ngram_size": st.integers(1, 3),
    "bad_words_ids": st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=6),
    "sequence_bias": st.lists(
        st.tuples(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=2), st.floats(-9, 9)).map(
            list
        ),
        min_size=1,
        max_size=6,
    ),
    "min_length": st.integers(1, 18),
    "min_new_tokens": st.integers(1, 9),
    "forced_bos_token_id": ids,
    "forced_eos_token_id": ids | some_ids,
    "suppress_tokens": st.lists(ids, max_size=5),
    "begin_suppress_tokens": some_ids,
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 6), st.sampled_from([1.1, 2.0])).map(list),
    "remove_invalid_values": st.booleans(),
    "renormalize_logits": st.booleans(),
    "stop_strings": st.lists(st.sampled_from(["b", "ab", "cd", "efg", "i"]), min_size=1, max_size=2),
    "length_penalty": st.sampled_from([0.0, 0.5, 2.0, -1.0]),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "eos_token_id": st.none() | ids | st.lists(ids, min_size=1, max_size=3),
}
prompts = st.lists(st.integers(4, VOCABULARY - 1), min_size=1, max_size=6)


def model_of(seen: str, seed: int) -> Any:
    models = T5S if seen == "decoder ids" else LLAMAS
    return models[seed % len(models)]


def stopping_of(written: dict[str, Any], seen: str) -> Stopping | None:
    """What an engine decodes with; None where the settings are refused."""
    reader = Reader(VOCABULARY, encoder_decoder=seen == "decoder ids", beams=True)
    reading = read_settings({"generation_config.json": written}.get, SettingsPlace(), reader)
    if any(item.severity == "error" for item in reading.findings):
        return None
    found = reading.settings
    rules = LogitsRules(found.fields, seen, VOCABULARY, IMAGE, START, TOKENIZER)
    return Stopping(NEW_TOKENS, found.eos_token_ids, rules=rules)


def answers(model: Any, requested: list[list[int]], stopping: Stopping) -> list[list[int]]:
    """Greedy answers of one batch; the image token of prompts is a row of the table, as in engines."""
    session: Any = ModelSession(model)
    placed = [[VOCABULARY + 5 if token == IMAGE else token for token in prompt] for prompt in requested]
    return collect(stream(session, placed, session, stopping), len(requested))


def searched(model: Any, requested: list[list[int]], stopping: Stopping, beams: Beams) -> list[list[int]]:
    session: Any = ModelSession(model)
    return search(session, requested, session, stopping, beams)[0]


def until_end(tokens: list[int], stopping: Stopping) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in stopping.eos_token_ids else tokens


def expected(
    model: Any, prompt: list[int], written: dict[str, Any], stopping: Stopping, seen: str, **options
):
    found = generated(
        model, prompt, written, seen=seen, new_tokens=NEW_TOKENS, tokenizer=TOKENIZER, **options
    )
    return until_end(found, stopping)


def with_ends(written: dict[str, Any], seen: str) -> dict[str, Any]:
    start = {"decoder_start_token_id": START} if seen == "decoder ids" else {}
    return {"eos_token_id": ENDS, **start, **written}


def test_every_obeyed_field_is_tried():
    obeyed = {name for name, row in fields().items() if row.effect in ("obeyed", "beams")}
    assert set(VALUES) == set(TELLING) == obeyed - {"decoder_start_token_id", "bos_token_id"}


@pytest.mark.parametrize(
    ("seen", "name"),
    # What encoders' settings read differs; the others work alike, on fewer kinds of ids in the fast lane.
    slow_except(
        [(seen, name) for seen in SEEN for name in sorted(TELLING)],
        *(("ids", name) for name in TELLING),
        *(("decoder ids", name) for name in OF_ENCODERS),
    ),
)
def test_a_setting_alone_gives_the_greedy_tokens_of_transformers(seen, name):
    written, model = with_ends({name: TELLING[name]}, seen), model_of(seen, 0)
    stopping, plain = stopping_of(written, seen), stopping_of(with_ends({}, seen), seen)
    right = [expected(model, prompt, written, stopping, seen) for prompt in PROMPTS]
    assert answers(model, PROMPTS, stopping) == right
    matters = name not in SILENT and (name not in OF_ENCODERS or seen == "ids")
    assert (answers(model, PROMPTS, plain) != right) == matters


@pytest.mark.parametrize("seen", SEEN)
def test_what_may_not_begin_an_answer_counts_from_behind_a_forced_first_token(seen):
    few = list(range(8, VOCABULARY))
    written = with_ends({"forced_bos_token_id": 7, "begin_suppress_tokens": few, "eos_token_id": None}, seen)
    stopping, model = stopping_of(written, seen), model_of(seen, 0)
    found = answers(model, PROMPTS, stopping)
    assert found == [expected(model, prompt, written, stopping, seen) for prompt in PROMPTS]
    if seen == "decoder ids":
        assert {answer[0] for answer in found} == {7}
        assert not {answer[1] for answer in found} & set(few)


@pytest.mark.parametrize("seen", slow_except(SEEN, "ids"))
@settings(max_examples=25)
@given(data=st.data())
def test_settings_together_give_the_greedy_tokens_of_transformers(seen, data):
    names = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=2, max_size=5, unique=True))
    written = with_ends({name: data.draw(VALUES[name]) for name in names}, seen)
    compare_greedy(written, seen, data)


def compare_greedy(written, seen, data):
    stopping = stopping_of(written, seen)
    assume(stopping is not None)
    model = model_of(seen, data.draw(st.integers(0, 2)))
    requested = data.draw(st.lists(prompts, min_size=1, max_size=3))
    right = [expected(model, prompt, written, stopping, seen) for prompt in requested]
    assert answers(model, requested, stopping) == right


@pytest.mark.slow
@pytest.mark.parametrize("seen", SEEN)
@settings(max_examples=25)
@given(data=st.data())
def test_settings_give_the_beams_of_transformers(seen, data):
    names = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    written = with_ends({name: data.draw(VALUES[name]) for name in names}, seen)
    stopping = stopping_of(written, seen)
    assume(stopping is not None)
    model, width = model_of(seen, data.draw(st.integers(0, 2))), data.draw(st.integers(2, 4))
    requested = data.draw(st.lists(prompts, min_size=1, max_size=2))
    right = [expected(model, prompt, written, stopping, seen, num_beams=width) for prompt in requested]
    assert searched(model, requested, stopping, Beams(width)) == right


def test_options_of_a_search_take_precedence_over_the_model_s():
    model, seen = LLAMAS[0], "ids"
    written = with_ends({"length_penalty": -1.0, "early_stopping": True}, seen)
    stopping, plain = stopping_of(written, seen), stopping_of(with_ends({}, seen), seen)
    requested = Beams(3, length_penalty=1.0, early_stopping=False)
    assert searched(model, PROMPTS, stopping, Beams(3)) != searched(model, PROMPTS, plain, Beams(3))
    assert searched(model, PROMPTS, stopping, requested) == searched(model, PROMPTS, plain, Beams(3))


def test_a_batch_changes_no_answer():
    written = with_ends({"repetition_penalty": 1.5, "min_length": 8, "no_repeat_ngram_size": 3}, "ids")
    stopping = stopping_of(written, "ids")
    alone = [answers(LLAMAS[1], [prompt], stopping)[0] for prompt in PROMPTS]
    assert answers(LLAMAS[1], PROMPTS, stopping) == alone


def test_settings_hold_where_tokens_are_drawn():
    never = list(range(4, VOCABULARY, 2))
    stopping = stopping_of(with_ends({"suppress_tokens": never}, "ids"), "ids")
    session: Any = ModelSession(LLAMAS[0])
    drawn = Sampling(temperature=5.0, seed=3)
    found = collect(stream(session, PROMPTS, session, stopping, drawn), len(PROMPTS))
    assert not {token for answer in found for token in answer} & set(never)


class Overflowing(ModelSession):
    """A model whose likeliest logits have left the range of numbers."""

    def _next(self, prompt, answer):
        logits = super()._next(prompt, answer)
        logits[:, 9], logits[:, 10] = torch.nan, -torch.inf
        return logits


def test_invalid_values_are_replaced_where_the_model_says_so_and_refused_elsewhere():
    session: Any = Overflowing(LLAMAS[0])
    plain = stopping_of(with_ends({}, "ids"), "ids")
    refused(EngineError, "MM523", lambda: list(stream(session, [[7]], session, plain)))
    removing = stopping_of(with_ends({"remove_invalid_values": True}, "ids"), "ids")
    (found,) = collect(stream(session, [[7]], session, removing), 1)
    assert found
    assert 9 not in found


def test_a_stop_string_that_the_tokenizer_cannot_write_is_named():
    stopping = stopping_of(with_ends({"stop_strings": "\u00e9t\u00e9"}, "ids"), "ids")
    error = refused(EngineError, "MM726", answers, LLAMAS[0], [[7]], stopping)
    assert "stop_strings" in error.message


def test_a_setting_that_transformers_fails_on_is_named():
    # The factor to the power of a length that passes the range of numbers.
    decay = {"exponential_decay_length_penalty": [0, 1e300], "suppress_tokens": ENDS}
    stopping = stopping_of(with_ends(decay, "ids"), "ids")
    error = refused(EngineError, "MM727", answers, LLAMAS[0], [[7]], stopping)
    assert "exponential_decay_length_penalty" in error.message


def test_ids_that_have_no_logit_are_no_context():
    rules = LogitsRules({}, "ids", VOCABULARY, image_token_id=-200)
    assert rules.context([4, VOCABULARY + 1, VOCABULARY + 2, 6]) == [4, 6]
