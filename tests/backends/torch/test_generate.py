"""The decoding loop: ends, lengths, streams and draws."""

import pytest
import torch

from mmbuild.backends.torch import Sampling
from mmbuild.backends.torch.beam_search import Beams
from mmbuild.backends.torch.generate import Stopping, collect, stream, trim_repetition
from mmbuild.models.errors import EngineError
from mmbuild.models.repetition_detector import Repetition
from support.engines.loaded import demo_engine, drawn
from support.errors import refused

pytestmark = pytest.mark.slow


@pytest.fixture
def engine():
    return demo_engine()


@pytest.fixture
def requests(engine):
    pictures = [picture for picture, _ in drawn(5, 3)]
    return engine.encode(pictures, ["how many ?", "describe the picture .", "what colour ?"])


def test_an_answer_ends_at_the_end_token_and_leaves_it_out(engine, requests):
    ends = engine.description.eos_token_ids
    endless = engine.run(requests, engine.stopping(20, ignore_eos=True)).answers
    ended = engine.run(requests, engine.stopping(20)).answers
    for long, short in zip(endless, ended, strict=True):
        cut = next(i for i, token in enumerate(long.token_ids) if token in ends)
        assert short.token_ids == long.token_ids[:cut]
    assert len({len(answer.token_ids) for answer in ended}) > 1, "answers must end at different steps"


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_at_most_so_many_tokens(engine, requests, count):
    answers = engine.run(requests, Stopping(count)).answers
    assert [len(answer.token_ids) for answer in answers] == [count] * 3


def test_a_stream_gives_the_same_text_as_waiting_for_it(engine, requests):
    for request in requests:
        pieces = list(engine.stream_text(request, engine.stopping()))
        whole = engine.run([request], engine.stopping()).answers[0].text
        assert "".join(pieces) == whole
    assert len(pieces) >= 1


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, seed=9)])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_steps_that_start_before_the_last_tokens_are_known_give_the_same(engine, requests, sampling, count):
    prompts, table = engine.inputs(requests)
    stopping = engine.stopping(count)
    both = [
        list(stream(engine.session, prompts, table, stopping, sampling, ahead=ahead))
        for ahead in (False, True)
    ]
    assert both[0] == both[1]


def test_no_step_starts_ahead_of_the_last_one_asked_for(engine, requests, monkeypatch):
    decoded, decode = [], engine.session.decode
    monkeypatch.setattr(engine.session, "decode", lambda tokens: decoded.append(tokens) or decode(tokens))
    prompts, table = engine.inputs(requests)
    list(stream(engine.session, prompts, table, engine.stopping(5, ignore_eos=True), ahead=True))
    assert len(decoded) == 4


def test_settings_that_read_earlier_tokens_are_not_decoded_ahead(engine, requests, monkeypatch):
    """Ends are known before each step, so nothing is computed for nothing."""
    prompts, table = engine.inputs(requests)
    largest = [[] for _ in prompts]
    decoded, decode = [], engine.session.decode
    monkeypatch.setattr(engine.session, "decode", lambda tokens: decoded.append(tokens) or decode(tokens))
    steps = list(stream(engine.session, prompts, table, engine.stopping(20), None, largest, ahead=True))
    assert len(decoded) == len(steps), "the step of the last end token is the only one that yields nothing"


def test_a_stream_comes_in_pieces(engine, requests):
    assert len(list(engine.stream_text(requests[1], engine.stopping()))) > 3


def test_a_drawn_stream_gives_the_same_text_too(engine, requests):
    sampling = Sampling(temperature=2.0, seed=4)
    pieces = "".join(engine.stream_text(requests[1], engine.stopping(12), sampling))
    assert pieces == engine.run([requests[1]], engine.stopping(12), sampling).answers[0].text


def test_the_same_seed_gives_the_same_answers(engine, requests):
    def ask(seed):
        sampling = Sampling(temperature=3.0, seed=seed)
        return [a.token_ids for a in engine.run(requests, Stopping(12), sampling).answers]

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)


def test_draws_of_a_sequence_do_not_depend_on_the_batch(engine, requests):
    sampling = Sampling(temperature=3.0, seed=8)
    together = engine.run(requests, Stopping(12), sampling).answers[0]
    alone = engine.run(requests[:1], Stopping(12), sampling).answers[0]
    assert together.token_ids == alone.token_ids


def test_top_k_1_is_greedy(engine, requests):
    greedy = engine.run(requests, Stopping(12)).answers
    assert engine.run(requests, Stopping(12), Sampling(temperature=1.0, top_k=1)).answers == greedy


class Counting:
    """A session whose next token for each row is ``1000 * row + step``."""

    device = "cpu"

    def __init__(self, config):
        self.config = config
        self.steps = 0

    def prefill(self, prompts, table):  # noqa: ARG002
        self.batch = len(prompts)
        return self._logits()

    def decode(self, tokens):  # noqa: ARG002
        self.steps += 1
        return self._logits()

    def _logits(self):
        tokens = torch.tensor([10 * row + self.steps for row in range(self.batch)])
        return torch.nn.functional.one_hot(tokens, 100).float()


def test_decoding_stops_when_the_last_sequence_has_ended(engine):
    session = Counting(engine.config)
    prompts = [[5], [5], [5]]
    steps = list(stream(session, prompts, session, Stopping(20, (12, 3, 25))))
    assert steps == [
        [0, 10, 20],
        [1, 11, 21],
        [2, None, 22],
        [None, None, 23],
        [None, None, 24],
    ]
    assert session.steps == 5
    assert collect(iter(steps), 3) == [[0, 1, 2], [10, 11], [20, 21, 22, 23, 24]]


def test_the_last_requested_token_costs_no_further_step(engine):
    session = Counting(engine.config)
    assert len(list(stream(session, [[5]], session, Stopping(4)))) == 4
    assert session.steps == 3


def test_suppressed_tokens_give_way_to_the_next_likeliest(engine, requests):
    free = engine.run(requests, Stopping(6)).answers
    never = tuple({answer.token_ids[0] for answer in free})
    held = engine.run(requests, Stopping(6, (), never)).answers
    assert not {token for answer in held for token in answer.token_ids} & set(never)


class Circling(Counting):
    """A session sure of itself in the same way at every step; row 0 becomes so after step 30."""

    def _logits(self):
        logits = super()._logits()
        restless = torch.sin(torch.tensor(37.0 * self.steps**2)) * 40
        logits *= torch.tensor([[50.0 + (restless if self.steps < 30 else 0)], [50.0 + restless]])
        return logits


def test_a_sequence_that_goes_round_in_circles_stops_and_the_others_go_on(engine):
    limit = engine.config.max_output_len
    session = Circling(engine.config)
    repetition = Repetition(steps=3, window=6)
    watched = Stopping(limit, (), (), repetition)
    largest = [[], []]
    sequences = collect(stream(session, [[5], [5]], session, watched, largest=largest), 2)
    assert 30 < len(sequences[0]) < limit
    assert len(sequences[1]) == limit
    assert [len(values) for values in largest] == [len(tokens) for tokens in sequences]


def test_what_repeats_is_cut_off_unless_the_sequence_ended_by_itself():
    steady = [40.0 + (k * 7919 % 23) for k in range(400)] + [50.0] * 1600
    numbers = Repetition()
    kept = numbers.kept_length(steady, ended=False)
    assert 400 < kept < 800
    tokens = list(range(len(steady)))
    cut, whole = trim_repetition([tokens, tokens], [steady, [*steady, 50.0]], numbers)
    assert cut == tokens[:kept]
    assert whole == tokens


def test_more_beams_than_the_engine_is_built_for_are_refused(engine, requests):
    error = refused(EngineError, "MM522", engine.run, requests, Stopping(4), None, Beams(2))
    assert "2 beams" in error.message
    assert "max_beam_width" in error.hint
