"""A session refuses what its engine was not built for, and continues to work afterwards."""

import pytest
import torch

from mmbuild.backends.torch.session import Session, check_count
from mmbuild.backends.torch.weights import rank_files
from mmbuild.models.errors import EngineError
from support.engines.caches import overflow
from support.engines.loaded import demo_directory, demo_engine, random_requests
from support.errors import refused

pytestmark = pytest.mark.slow


@pytest.fixture
def engine():
    return demo_engine()


@pytest.fixture
def session(engine):
    return engine.session


@pytest.fixture
def table(session):
    return session.empty_prompt_table()


def fresh_session(engine):
    llm = demo_directory() / "llm"
    return Session(engine.config, llm, rank_files(llm, engine.config, 0), engine.description.target)


def test_a_prompt_longer_than_the_engine_is_refused_with_both_lengths(session, table):
    prompts = [[5] * 3, [5] * (session.config.max_input_len + 1)]
    error = refused(EngineError, "MM512", session.prefill, prompts, table)
    assert "prompt 2 has 129 tokens" in error.message
    assert "1 to 128" in error.message
    assert "max_input_len" in error.hint


def test_a_prompt_that_just_fits_is_taken(session, table):
    logits = session.prefill([[5] * session.config.max_input_len], table)
    assert logits.shape == (1, session.config.vocab_size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_an_empty_prompt_is_refused(session, table):
    refused(EngineError, "MM512", session.prefill, [[]], table)


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_of_another_size_is_refused(session, table, count):
    error = refused(EngineError, "MM511", session.prefill, [[5]] * count, table)
    assert f"{count} prompts" in error.message
    assert "1 to 4" in error.message


@pytest.mark.parametrize("token", [-1, 64 + 4 * 64])
def test_a_token_outside_vocabulary_and_table_is_refused(session, table, token):
    assert str(token) in refused(EngineError, "MM513", session.prefill, [[5, token]], table).message


def test_the_last_row_of_the_table_is_a_token(session, table):
    config = session.config
    table[-1] = 1.0
    one = session.prefill([[5, config.vocab_size + config.max_multimodal_len - 1]], table).clone()
    other = session.prefill([[5, config.vocab_size]], table)
    assert not torch.equal(one, other)


def test_a_table_of_another_shape_is_refused(session, table):
    error = refused(EngineError, "MM514", session.prefill, [[5]], table[:-1])
    assert "[255, 128]" in error.message
    assert "[256, 128]" in error.message


def test_decode_before_prefill_is_refused(engine):
    session = fresh_session(engine)
    refused(EngineError, "MM509", session.decode, torch.tensor([5]))


def test_a_sequence_at_its_last_slot_is_refused_and_the_session_continues(session, table):
    config = session.config
    session.prefill([[5] * config.max_input_len], table)
    for _ in range(config.max_output_len):
        assert session.decode(torch.tensor([5])).isfinite().all()
    error = refused(EngineError, "MM510", session.decode, torch.tensor([5]))
    assert str(config.max_seq_len) in error.message
    assert session.prefill([[5]], table).isfinite().all()


def test_tokens_do_not_depend_on_how_they_came_in(session, table):
    """Decoding a prompt token by token gives what prefilling it whole gives."""
    words = [7, 9, 11, 13, 15, 17]
    whole = session.prefill([words], table).clone()
    session.prefill([words[:2]], table)
    for token in words[2:]:
        last = session.decode(torch.tensor([token]))
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)


def test_weights_are_shared_by_all_packages_and_counted_once(session):
    size = (demo_directory() / "llm" / "rank0.safetensors").stat().st_size
    assert 0 < session.weight_bytes <= size < 1.1 * session.weight_bytes


def test_too_many_new_tokens_are_refused(engine):
    requests = random_requests(engine, [3])
    error = refused(EngineError, "MM515", engine.run, requests, engine.stopping(41))
    assert "41 new tokens" in error.message
    assert "1 to 40" in error.message
    refused(EngineError, "MM515", engine.run, requests, engine.stopping(0))


def test_what_an_overflow_left_in_the_caches_does_not_reach_the_next_batch(engine, table):
    session = fresh_session(engine)
    prompts = [[5, 6, 7, 8, 9], [5]]
    token = torch.tensor([7, 7])
    session.prefill(prompts, table)
    clean = [session.decode(token).clone() for _ in range(3)]
    session.prefill([[5] * 20] * 4, torch.full_like(table, torch.nan))
    overflow(session)
    session.prefill(prompts, table)
    again = [session.decode(token).clone() for _ in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(clean, again, strict=True))


def test_an_engine_for_single_prompts_says_so() -> None:
    error = refused(EngineError, "MM511", check_count, 2, 1)
    assert error.message == "the engine takes 1 prompt at a time, not 2"
    assert error.hint == "ask one after the other, or raise max_batch_size in the recipe"
    assert "0 prompts" in refused(EngineError, "MM511", check_count, 0, 1).message
    check_count(1, 1)
