"""Sessions of every architecture: rows that come and go, what an earlier batch left, the last slot, empty prompts."""

from dataclasses import replace

import pytest
import torch

from mmbuild.backends.torch.beam_search import Beams
from mmbuild.backends.torch.generate import Stopping
from mmbuild.backends.torch.sampling import Sampling
from mmbuild.backends.torch.session import Session
from mmbuild.backends.torch.weights import rank_files
from mmbuild.models.errors import EngineError
from mmbuild.models.families.reference import continue_greedily
from support.engines.caches import overflow
from support.engines.families import BATCH, BEAMS, engine, reference, requests
from support.errors import refused

pytestmark = pytest.mark.slow

MODELS = [("blip2-opt", 10), ("blip2-t5", 10), ("nougat", 1), ("vila", 1)]
models = pytest.mark.parametrize(("family", "seed"), MODELS)
LENGTHS = [3, 9, 1]


def started(built, seed, lengths=LENGTHS):
    """A session after a batch of prompts of these lengths, and their first logits."""
    prompts, visual = built.inputs(requests(built, lengths, seed))
    return built.session, built.session.prefill(prompts, visual).clone()


def steps(session, rows, count, token=5):
    return [session.decode(torch.full((rows,), token)).clone() for _ in range(count)]


@models
def test_rows_are_multiplied_and_dropped_without_a_trace(family, seed):
    built = engine(family, seed)
    session, first = started(built, seed)
    expected = steps(session, BATCH, 6)
    session, again = started(built, seed)
    torch.testing.assert_close(again, first)
    rows = torch.arange(BATCH)
    for step, chosen in enumerate(
        [[2, 1, 0], [0, 0, 1, 2, 2, 1, 0], [4, 4], [1], [0, 0, 0, 0, 0, 0, 0, 0, 0], [8, 3]]
    ):
        session.select(torch.tensor(chosen))
        rows = rows[chosen]
        (logits,) = steps(session, len(rows), 1)
        torch.testing.assert_close(logits, expected[step][rows], rtol=1e-4, atol=1e-4)


@models
def test_more_rows_than_the_engine_has_are_refused(family, seed):
    session, _ = started(engine(family, seed), seed)
    rows = torch.zeros(BATCH * BEAMS + 1, dtype=torch.int64)
    error = refused(EngineError, "MM511", session.select, rows)
    assert "max_beam_width" in error.hint


@models
def test_what_an_overflow_left_reaches_neither_the_next_batch_nor_its_beams(family, seed):
    """Rows that beams fill were no part of the batch that was started; on a GPU more slots are read than live."""
    built = engine(family, seed)
    requested = requests(built, LENGTHS, seed)
    stopping, beams = built.stopping(6, ignore_eos=True), Beams(BEAMS)
    clean = [built.run(requested, stopping).answers, built.run(requested, stopping, beams=beams).answers]
    overflow(built.session)
    assert built.run(requested, stopping, beams=beams).answers == clean[1]
    overflow(built.session)
    assert built.run(requested, stopping).answers == clean[0]


@models
def test_dead_slots_that_graphs_read_are_cleared(family, seed, monkeypatch):
    """As on a GPU: every step looks at all slots, whatever is live."""
    built = engine(family, seed)
    requested = requests(built, LENGTHS, seed)
    expected = built.run(requested, built.stopping(6, ignore_eos=True)).answers

    class EverySlot:
        def __call__(self, step, inputs, views, _rows):
            return step(inputs, views)

    monkeypatch.setattr(built.session, "_graphs", EverySlot())
    overflow(built.session)
    assert built.run(requested, built.stopping(6, ignore_eos=True)).answers == expected


@models
def test_a_short_batch_after_a_long_one_is_answered_as_in_a_fresh_session(family, seed):
    built = engine(family, seed)
    llm = built.directory / "llm"
    fresh = Session(built.config, llm, rank_files(llm, built.config, 0), built.description.target)
    prompts, visual = built.inputs(requests(built, [1, 2], seed + 3))
    expected = [fresh.prefill(prompts, visual).clone(), *steps(fresh, 2, 4)]
    session, _ = started(built, seed, [20, 4, 9])
    steps(session, BATCH, 20)
    found = [session.prefill(prompts, visual).clone(), *steps(session, 2, 4)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@models
def test_the_last_slot_is_used_and_the_one_behind_it_refused(family, seed):
    built = engine(family, seed)
    limit = built.config.max_output_len
    (requested,) = requests(built, [5], seed)
    expected = continue_greedily(
        reference(family, seed), requested, limit, built.processor.suppressed_token_ids
    )
    found = built.run([requested], built.stopping(limit, ignore_eos=True)).answers[0]
    assert found.token_ids == expected.tokens
    refused(EngineError, "MM515", built.run, [requested], Stopping(limit + 1))
    while built.session._caches.lengths[0] < built.config.max_seq_len:
        assert built.session.decode(torch.tensor([5])).isfinite().all()
    error = refused(EngineError, "MM510", built.session.decode, torch.tensor([5]))
    assert str(built.config.max_seq_len) in error.message


@pytest.mark.parametrize(("family", "seed"), [("blip2-opt", 10), ("blip2-t5", 10)])
def test_empty_prompts_are_answered_as_by_the_reference(family, seed):
    built = engine(family, seed)
    (shown,) = requests(built, [4], seed)
    picture = torch.rand(3, *built.visual.config.image_size).mul(255).byte().permute(1, 2, 0).numpy()
    requested = [shown, *built.encode([[picture], []], ["", ""])]
    assert len({len(request.ids) for request in requested}) == len(requested)
    transformers = reference(family, seed)
    expected = [continue_greedily(transformers, request, 8).tokens for request in requested[:2]]
    # BLIP-2 itself asks for a picture; without one it is its language model.
    words = torch.tensor([requested[2].ids])
    new = transformers.language_model.generate(words, max_new_tokens=8, do_sample=False, eos_token_id=-1)
    expected.append(tuple(new[0, -8:].tolist()))
    answers = built.run(requested, built.stopping(8, ignore_eos=True)).answers
    assert [answer.token_ids for answer in answers] == expected


@models
@pytest.mark.parametrize("beams", [None, Beams(BEAMS)], ids=["greedy", "beams"])
def test_overflow_is_reported_and_the_engine_continues(family, seed, beams):
    built = engine(family, seed)
    requested = requests(built, LENGTHS, seed)
    before = built.run(requested, built.stopping(4), beams=beams).answers
    broken = [
        requested[0],
        replace(requested[1], pixels=torch.full_like(requested[1].pixels, torch.inf)),
        requested[2],
    ]
    error = refused(EngineError, "MM523", built.run, broken, built.stopping(4), beams=beams)
    assert "prompt 2" in error.message
    assert built.run(requested, built.stopping(4), beams=beams).answers == before


@pytest.mark.parametrize("beams", [None, Beams(BEAMS)], ids=["sampled", "beams"])
def test_suppressed_tokens_are_never_chosen(beams):
    built = engine("nougat", 1)
    requested = requests(built, LENGTHS, 1)
    sampling = None if beams else Sampling(temperature=50.0, seed=3)
    for never in (built.processor.suppressed_token_ids, tuple(range(0, built.config.vocab_size, 2))):
        stopping = Stopping(20, (), never)
        chosen = {
            token
            for answer in built.run(requested, stopping, sampling, beams).answers
            for token in answer.token_ids
        }
        assert chosen
        assert not chosen & set(never)
