"""Many requests share the steps of one engine, and none changes the answer of another."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.models.errors import EngineError
from mmbuild.serving import engine_loop
from mmbuild.serving.engine_loop import EngineLoop
from mmbuild.serving.jobs import Done, Failed, Piece
from mmbuild.serving.sequence import AnswerState
from support.serving.fakes import END, Asked, FakeEngine


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def steps():
    return []


@pytest.fixture(params=[False, True], ids=["in turn", "overlapping"])
def loop(engine, steps, request):
    made = EngineLoop(engine, queue=10, trace=steps.append, overlap=request.param)
    made.start()
    yield made
    engine.session.gate.set()
    made.close(20)
    assert not made.is_alive


def held(engine, loop, *asked: Asked) -> list[int]:
    """Submit jobs while the engine stands still, so that they meet in its next turns."""
    engine.session.gate.clear()
    keys = [loop.submit(one.job) for one in asked]
    engine.session.gate.set()
    return keys


def test_an_answer_with_its_pieces_and_times(loop) -> None:
    asked = Asked(3, 4, tokens=4)
    loop.submit(asked.job)
    done = asked.end()
    assert isinstance(done, Done)
    assert (done.reason, done.tokens, done.text, asked.text) == ("length", (5, 6, 7, 8), "5 6 7 8", "5 6 7 8")
    assert done.queued >= 0
    assert done.seconds > 0


def test_an_end_token_ends_an_answer_and_is_not_part_of_it(loop) -> None:
    asked = Asked(END - 3, tokens=10)
    loop.submit(asked.job)
    assert (asked.end().reason, asked.end().tokens) == ("stop", (END - 2, END - 1))


def test_a_stop_string_ends_an_answer(loop) -> None:
    asked = Asked(3, tokens=10, stop=("6 7",))
    loop.submit(asked.job)
    assert (asked.end().reason, asked.end().text, asked.text) == ("stop", "4 5", "4 5")


def test_more_requests_than_slots_share_steps_and_get_their_own_answers(engine, loop, steps) -> None:
    asked = [Asked(place, tokens=3 + place % 4) for place in range(1, 9)]
    held(engine, loop, *asked)
    for place, one in enumerate(asked, start=1):
        assert one.end().tokens == tuple(range(place + 1, place + 4 + place % 4))
    assert max(step.decoded for step in steps) == 3
    assert any(step.read and step.decoded for step in steps), "somebody joined while others were decoded"


def test_a_long_prompt_is_read_in_pieces_beside_other_answers(engine, loop) -> None:
    loop._reading_rate = 50.0  # tokens a second: 10 in the longest wait, but never fewer than 16
    first, second = Asked(1, tokens=30), Asked(*range(2, 50), tokens=2)
    held(engine, loop, first, second)
    loop._reading_rate = 50.0
    assert second.end().tokens == (50, 51)
    assert first.end().tokens == tuple(range(2, 32))


def log_of(engine, asked: Asked) -> list[str]:
    """Notes, in order, the steps of the engine and the pieces of an answer."""
    log: list[str] = []
    decode, report = engine.session.decode, asked.job.report

    def decoded(tokens, rows):
        log.append("step")
        return decode(tokens, rows)

    def reported(event):
        log.append("piece" if isinstance(event, Piece) else "end")
        report(event)

    engine.session.decode = decoded
    asked.job = replace(asked.job, report=reported)
    return log


def test_a_step_starts_before_the_tokens_of_the_last_one_are_known_and_none_starts_in_vain(engine) -> None:
    loop, asked = EngineLoop(engine, overlap=True), Asked(3, tokens=5)
    log = log_of(engine, asked)
    loop.start()
    loop.submit(asked.job)
    assert asked.end().tokens == (4, 5, 6, 7, 8)
    loop.close(20)
    assert log == ["piece", "step", "step", "piece", "step", "piece", "step", "piece", "piece", "end"]


def test_a_step_waits_for_tokens_that_its_logits_depend_on(engine) -> None:
    loop, asked = EngineLoop(engine, overlap=True), Asked(3, tokens=3, logprobs=1)
    log = log_of(engine, asked)
    loop.start()
    loop.submit(asked.job)
    assert asked.end().tokens == (4, 5, 6)
    loop.close(20)
    assert all(len(piece.logprobs) == 1 for piece in asked.events if isinstance(piece, Piece))
    assert log == ["piece", "step", "step", "piece", "piece", "end"]


@pytest.mark.parametrize("seed", range(8))
def test_requests_of_all_kinds_come_and_go_and_get_the_answers_they_get_alone(seed) -> None:
    """Steps that start ahead, steps that wait, ends of all kinds, joins and cancellations, at random."""
    rng, engine = random.Random(seed), FakeEngine(slots=4)
    loop = EngineLoop(engine, queue=60, overlap=True, together=rng.randint(1, 4))
    loop.start()
    asked = []
    for _ in range(40):
        first = rng.randrange(1, 90)
        more = rng.choice([{}, {}, {"logprobs": 2}, {"stop": (f"{first + 4}",)}, {"temperature": 0.01}])
        one = Asked(*[1] * rng.randint(0, 40), first, tokens=rng.randint(1, 12), **more)
        key = loop.submit(one.job)
        if rng.random() < 0.2:
            loop.cancel(key)
            continue
        asked.append((one, first, more))
        if rng.random() < 0.3:
            one.end()
    for one, first, more in asked:
        expected = list(range(first + 1, first + 1 + one.job.stopping.max_new_tokens))
        expected = expected[:4] if "stop" in more else expected  # with the token that completes it
        expected = expected[: expected.index(END)] if END in expected else expected
        assert one.end().tokens == tuple(expected), more
    loop.close(20)
    assert loop.counts() == (0, 0)


@pytest.fixture
def grouping(engine):
    made = EngineLoop(engine, queue=10, together=2)
    made.start()
    yield made
    engine.session.gate.set()
    made.close(20)


def test_whole_prompts_are_read_together_as_many_as_may_be(engine, grouping) -> None:
    asked = [Asked(place, place, tokens=2) for place in (1, 20, 40)]
    first = Asked(3, 3, tokens=2)
    held(engine, grouping, first, *asked)
    assert [one.end().tokens for one in (first, *asked)] == [(4, 5), (2, 3), (21, 22), (41, 42)]
    reads = [counts for verb, counts, _ in engine.session.calls if verb == "prefill"]
    assert max(map(len, reads)) == 2
    assert sum(map(len, reads)) == 4


def test_a_prompt_that_cannot_be_read_does_not_harm_those_that_are_read_with_it(engine, grouping) -> None:
    inputs = engine.inputs

    def refusing(requests):
        if any(13 in one.ids for one in requests):
            raise EngineError("13 is not allowed", code="MM519")
        return inputs(requests)

    engine.inputs = refusing
    asked = [Asked(place, tokens=3) for place in (1, 13, 40)]
    held(engine, grouping, *asked)
    assert asked[0].end().tokens == (2, 3, 4)
    assert asked[2].end().tokens == (41, 42, 43)
    failed = asked[1].end()
    assert isinstance(failed, Failed)
    assert failed.error.code == "MM519"


def test_drawn_tokens_do_not_depend_on_the_others(engine, loop) -> None:
    def ask(*ids):
        return Asked(*ids, tokens=20, temperature=30.0, seed=5)

    alone = ask(7)
    loop.submit(alone.job)
    alone.end()
    together = [ask(7), Asked(1, tokens=20), ask(7), Asked(2, temperature=9.0, seed=1)]
    held(engine, loop, *together)
    assert together[0].end().tokens == together[2].end().tokens == alone.end().tokens
    assert together[1].end().tokens == tuple(range(2, 22))


def test_log_probabilities_of_the_most_likely_tokens(loop) -> None:
    asked = Asked(3, tokens=1, logprobs=2)
    loop.submit(asked.job)
    asked.end()
    [value] = asked.events[0].logprobs
    assert value.token == 4
    assert value.top[0] == (4, value.logprob)
    assert len(value.top) == 2
    assert -0.001 < value.logprob <= 0


def test_log_probabilities_are_finite_and_no_more_than_there_are_tokens() -> None:
    job = Asked(3, tokens=1, logprobs=20).job
    job = replace(job, stopping=replace(job.stopping, suppressed_token_ids=(0, 1, 3)))
    state = AnswerState(job, [3], "cpu", str)
    shaped = state.shaped(torch.zeros(1, 4))
    [value], _ = state.take(2, shaped)
    assert (value.token, value.logprob) == (2, 0.0)
    assert sorted(value.top) == [(0, -9999.0), (1, -9999.0), (2, 0.0), (3, -9999.0)]


def test_a_cancelled_request_frees_its_slot(engine, loop) -> None:
    endless = [Asked(1, tokens=40) for _ in range(3)]
    waiting = Asked(5, tokens=1)
    keys = held(engine, loop, *endless, waiting)
    loop.cancel(keys[0])
    assert waiting.end().tokens == (6,)
    for one in endless[1:]:
        one.end()
    assert not endless[0].ended.is_set()
    assert loop.counts() == (0, 0)


def test_a_failing_step_fails_its_requests_and_no_others(engine, loop) -> None:
    engine.session.fail = RuntimeError("device lost")
    asked = Asked(1)
    loop.submit(asked.job)
    failed = asked.end()
    assert isinstance(failed, Failed)
    assert failed.error.code == "MM872"
    assert "device lost" in failed.error.message
    after = Asked(1, tokens=1)
    loop.submit(after.job)
    assert after.end().tokens == (2,)


def test_logits_that_are_not_numbers_fail_one_request(engine, loop, monkeypatch) -> None:
    prefill = engine.session.prefill
    monkeypatch.setattr(
        engine.session,
        "prefill",
        lambda prompts, table, rows: (
            prefill(prompts, table, rows) * (float("nan") if prompts[0][0] == 9 else 1)
        ),
    )
    bad, good = Asked(9), Asked(1, tokens=2)
    held(engine, loop, bad, good)
    assert bad.end().error.code == "MM523"
    assert good.end().tokens == (2, 3)


@pytest.mark.parametrize(("asked", "code"), [(Asked(*[1] * 51), "MM512"), (Asked(1, tokens=41), "MM515")])
def test_what_the_engine_cannot_do_is_refused_at_once(loop, asked, code) -> None:
    with pytest.raises(EngineError) as refused:
        loop.submit(asked.job)
    assert refused.value.code == code


def test_closing_finishes_what_is_there_and_takes_nothing_more(engine, loop) -> None:
    asked = [Asked(place, tokens=3) for place in range(6)]
    held(engine, loop, *asked)
    loop.close(20)
    assert [one.end().tokens[0] for one in asked] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(EngineError) as refused:
        loop.submit(Asked(1).job)
    assert refused.value.code == "MM871"


def test_closing_gives_up_what_takes_too_long(engine, loop) -> None:
    engine.session.gate.clear()
    asked = Asked(1)
    loop.submit(asked.job)
    loop.close(0.05)
    assert asked.end().error.code == "MM871"


def test_a_lost_engine_fails_what_is_under_way_and_takes_nothing_more(engine, steps) -> None:
    lost = []
    loop = EngineLoop(engine, queue=10, trace=steps.append, lost=lost.append)
    loop.start()
    error = RankError("rank 0 failed in decode, or another rank was lost", code="MM585")
    engine.session.gate.clear()
    asked = [Asked(place, tokens=9) for place in range(5)]
    for one in asked:
        loop.submit(one.job)
    engine.session.fail = error
    engine.session.gate.set()
    assert [one.end().error for one in asked] == [error] * 5, "those that wait, too"
    loop.close(20)
    assert not loop.is_alive
    assert lost == [error]
    with pytest.raises(RankError):
        loop.submit(Asked(1).job)


def test_a_gpu_that_computes_no_more_is_a_lost_engine(engine, steps, monkeypatch) -> None:
    lost = []
    loop = EngineLoop(engine, queue=10, trace=steps.append, lost=lost.append)
    loop.start()
    engine.session.gate.clear()
    asked = [Asked(place, tokens=9) for place in range(5)]
    for one in asked:
        loop.submit(one.job)
    gone = EngineError("the GPU cannot be used any more", code="MM872")
    monkeypatch.setattr(engine_loop, "lost_gpu", lambda _device: gone)
    engine.session.fail = RuntimeError("a package failed")
    engine.session.gate.set()
    errors = [one.end().error for one in asked]
    assert "a package failed" in errors[0].message
    assert errors[1:] == [gone] * 4, "those that wait, too"
    loop.close(20)
    assert lost == [gone]
    with pytest.raises(EngineError):
        loop.submit(Asked(1).job)


def test_an_engine_is_given_up_from_outside(engine, loop) -> None:
    engine.session.gate.clear()
    asked = Asked(1)
    loop.submit(asked.job)
    error = RankError("rank 1 has ended", code="MM585")
    loop.abandon(error)
    assert asked.end().error is error, "at once, though a step hangs"
    with pytest.raises(RankError):
        loop.submit(Asked(1).job)
