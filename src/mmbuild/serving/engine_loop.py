"""Runs an engine for many requests at once, in its own thread.

Each turn reads some tokens of prompts and decodes a token of all answers that are under way
(:mod:`mmbuild.serving.scheduler`). Everything that touches the engine happens in this thread.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.host_copy import HostCopy
from mmbuild.base.errors import MmbuildError
from mmbuild.models.errors import EngineError
from mmbuild.serving.flight import Flight, next_inputs
from mmbuild.serving.jobs import Done, Failed, Finish, Job, Piece
from mmbuild.serving.lost_gpu import lost_gpu
from mmbuild.serving.scheduler import Reading, Scheduler, Turn, groups
from mmbuild.serving.sequence import AnswerState
from mmbuild.serving.under_way import Answering, ChosenToken, Row, drawn

_log = logging.getLogger(__name__)
_SMALLEST_PIECE = 16
_RECENT = 64
# First tokens from pixels took 20.6 ms alone, 14.4 each of 4 and 14.2 each of 32 (7B, 603 tokens, H200): more
# together gain nothing and come later.
_TOGETHER = 4


@dataclass(frozen=True, slots=True)
class Step:
    """What a turn did, for a trace.

    Attributes:
        began: Its start, in seconds of the loop's clock.
        seconds: How long it took.
        read: Tokens of prompts that were read.
        decoded: Requests that got a token.
        waiting: Requests without a slot, afterwards.
    """

    began: float
    seconds: float
    read: int
    decoded: int
    waiting: int


class EngineLoop:
    """Answers jobs with one engine.

    Args:
        engine: The engine. Nobody else may use it.
        queue: How many jobs may wait for a slot.
        longest_wait: Seconds that reading a prompt may hold up the other answers in a turn, approximately.
        clock: Seconds.
        trace: Gets every turn.
        lost: Gets the error after which the engine cannot be used any more.
        overlap: Start a step before the host has the tokens of the one before, where no request needs them for its
            logits, and make text meanwhile. Default: on CUDA; on the CPU tokens would only come later.
        together: The most prompts that are read together. Default: 4 on CUDA; on the CPU the first answers would only
            come later.
    """

    def __init__(
        self,
        engine: Any,
        *,
        queue: int = 64,
        longest_wait: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        trace: Callable[[Step], None] = lambda _: None,
        lost: Callable[[MmbuildError], None] = lambda _: None,
        overlap: bool | None = None,
        together: int | None = None,
    ) -> None:
        self._engine, self._clock, self._trace, self._report_lost = engine, clock, trace, lost
        self._longest_wait = longest_wait
        on_gpu = engine.session.device == "cuda"
        together = (_TOGETHER if on_gpu else 1) if together is None else together
        self._scheduler = Scheduler(engine.config.max_batch_size, queue, together)
        self._jobs: dict[int, Answering] = {}
        self._keys = itertools.count()
        # Guards everything above; the engine is used outside of it.
        self._changed = threading.Condition()
        self._closing = False
        self._lost: MmbuildError | None = None
        self._overlap = on_gpu if overlap is None else overlap
        self._flight: Flight | None = None
        # Tokens whose text is still to be made.
        self._unsaid: deque[ChosenToken] = deque()
        self._reading_rate = 0.0  # tokens a second
        self._services: deque[float] = deque(maxlen=_RECENT)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def counts(self) -> tuple[int, int]:
        """Requests in slots, and waiting ones."""
        with self._changed:
            return self._scheduler.running, self._scheduler.waiting

    def expected_wait(self) -> float:
        """Seconds until a request that came now would get a slot, from recent answers."""
        with self._changed:
            mean = sum(self._services) / len(self._services) if self._services else 1.0
            return mean * (1 + self._scheduler.waiting) / self._scheduler.slots

    def submit(self, job: Job) -> int:
        """Queue a job; returns its key.

        Raises:
            QueueFullError: MM870, too many are waiting.
            EngineError: MM871, the engine takes no more jobs; MM512, the prompt is longer than max_input_len; MM515,
                too many tokens are requested.
            MmbuildError: The engine was lost.
        """
        self._check(job)
        with self._changed:
            if self._lost is not None:
                raise self._lost
            if self._closing:
                raise EngineError("the server is shutting down", code="MM871", hint="ask another server")
            key = next(self._keys)
            self._scheduler.add(key, max(1, len(job.request.ids)))
            self._jobs[key] = Answering(job, self._clock())
            self._changed.notify()
            return key

    def cancel(self, key: int) -> None:
        """Give a job up; its slot is free after the current turn. Finished ones are ignored."""
        with self._changed:
            if self._jobs.pop(key, None) is not None:
                self._scheduler.remove(key)
                self._changed.notify()

    def abandon(self, error: MmbuildError) -> None:
        """Fail all jobs with ``error``, take no more, and end the thread after its turn; from any thread."""
        with self._changed:
            self._lost = self._lost or error
            self._closing = True
            left = list(self._jobs)
            self._changed.notify()
        for key in left:
            self._fail(key, error)

    def close(self, patience: float) -> None:
        """Take no more jobs, finish those that are there, and end the thread; after ``patience`` seconds give the
        rest up."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(patience)
        if self._thread.is_alive():
            with self._changed:
                left = list(self._jobs)
            for key in left:
                self._fail(
                    key, EngineError("the server is shutting down", code="MM871", hint="ask another server")
                )
            self._thread.join(patience)

    def _check(self, job: Job) -> None:
        config, count = self._engine.config, len(job.request.ids)
        if count > config.max_input_len:
            raise EngineError(
                f"the prompt has {count} tokens with its visual features, but the engine supports 1 to "
                f"{config.max_input_len}",
                code="MM512",
                hint="shorten the prompt, or raise max_input_len in the recipe",
            )
        if not 1 <= job.stopping.max_new_tokens <= config.max_output_len:
            raise EngineError(
                f"{job.stopping.max_new_tokens} new tokens are requested, but the engine supports 1 to "
                f"{config.max_output_len}",
                code="MM515",
                hint="request fewer tokens, or raise max_output_len in the recipe",
            )

    def _run(self) -> None:
        if self._engine.session.device == "cuda":
            # Copies of pictures are all that the host computes, and threads of OpenMP spin while they wait for work.
            torch.set_num_threads(1)
        while (turn := self._next_turn()) is not None:
            began = self._clock()
            for readings in groups(turn.reading, self._scheduler.together):
                self._read_guarded(readings)
            decoding = [(key, slot) for key, slot in turn.decoding if key in self._jobs]
            if decoding:
                self._guarded([key for key, _ in decoding], self._decode, decoding)
            read = sum(reading.count for reading in turn.reading)
            seconds = self._clock() - began
            self._trace(Step(began, seconds, read, len(decoding), self.counts()[1]))

    def _next_turn(self) -> Turn | None:
        """The next turn, once there is one; None if the loop is to end."""
        turn = self._planned()
        flight = self._flight
        if flight is not None and (turn is None or turn.reading or not self._all_step_ahead(turn)):
            self._flight = None
            self._guarded(list(flight.keys), self._land, flight)
            turn = self._planned()
        if turn is None:
            self._say()
            with self._changed:
                turn = self._scheduler.turn(self._readable())
                while turn is None and not self._closing:
                    self._changed.wait()
                    turn = self._scheduler.turn(self._readable())
        return turn

    def _planned(self) -> Turn | None:
        with self._changed:
            return self._scheduler.turn(self._readable())

    def _all_step_ahead(self, turn: Turn) -> bool:
        jobs = [self._jobs.get(key) for key, _ in turn.decoding]
        return all(job is None or job.sequence is None or job.sequence.steps_ahead for job in jobs)

    def _read_guarded(self, readings: Sequence[Reading]) -> None:
        """Read prompts together; if one of them cannot be read, read each by itself."""
        if len(readings) > 1:
            try:
                with torch.inference_mode():
                    self._read(readings)
            except RankError as error:
                self._lose(error)
                return
            except Exception:  # each is told what is wrong with it
                _log.debug("prompts that were read together", exc_info=True)
            else:
                return
        for reading in readings:
            self._guarded([reading.key], self._read, [reading])

    def _lose(self, error: MmbuildError) -> None:
        """What other ranks have done of the turn is unknown, or no other turn can succeed."""
        self.abandon(error)
        self._report_lost(error)

    def _guarded(self, keys: list[int], work: Callable[[Any], None], what: Any) -> None:
        """Do a part of a turn; if it fails, so do the jobs that it was for."""
        try:
            with torch.inference_mode():
                work(what)
        except RankError as error:
            self._lose(error)
        except Exception as error:  # a bug must not end the thread
            for key in keys:
                self._fail(key, _as_reported(error))
            if (lost := lost_gpu(self._engine.session.device)) is not None:
                self._lose(lost)

    def _readable(self) -> int | None:
        """Tokens of prompts that are read in about the longest wait; None for models that read whole prompts."""
        if self._engine.config.llm.cross_attention:
            return None
        return max(_SMALLEST_PIECE, int(self._reading_rate * self._longest_wait))

    def _read(self, readings: Sequence[Reading]) -> None:
        """Read a piece of a prompt, or several whole prompts together; after the last one choose the first token."""
        known = [(one, job) for one in readings if (job := self._jobs.get(one.key)) is not None]
        if not known:
            return
        session = self._engine.session
        began = self._clock()
        self._begin([job for _, job in known if job.sequence is None], began)
        table = known[0][1].table
        start = session.extend if known[0][0].first else session.prefill
        pieces = [(job.prompt or [])[one.first : one.first + one.count] for one, job in known]
        logits = start(pieces, table, [one.slot for one, _ in known])
        self._say()
        if known[0][0].last:
            for _, job in known:
                job.table = None
            self._choose([one.key for one, _ in known], logits)
            self._say()  # at once: the next prompts take long
        elif session.device == "cuda":
            torch.cuda.synchronize()
        self._note_rate(sum(one.count for one, _ in known), self._clock() - began)
        with self._changed:
            for one, _ in known:
                self._scheduler.read(one)

    def _begin(self, jobs: Sequence[Answering], now: float) -> None:
        """See the pictures of jobs whose prompts are read together."""
        if not jobs:
            return
        prompts, table = self._engine.inputs([job.job.request for job in jobs])
        for job, prompt in zip(jobs, prompts, strict=True):
            job.started, job.prompt, job.table = now, prompt, table
            engine = self._engine
            job.sequence = AnswerState(
                job.job, prompt, engine.session.device, engine.decoded, engine.unsettled_characters
            )

    def _note_rate(self, count: int, seconds: float) -> None:
        rate = count / max(seconds, 1e-6)
        self._reading_rate = rate if not self._reading_rate else 0.7 * self._reading_rate + 0.3 * rate

    def _decode(self, decoding: list[tuple[int, int]]) -> None:
        session = self._engine.session
        # Jobs may be cancelled meanwhile; their rows are decoded all the same.
        jobs = [(key, slot, job) for key, slot in decoding if (job := self._jobs.get(key)) is not None]
        flight, self._flight = self._flight, None
        if flight is not None:
            jobs = [one for one in jobs if one[0] not in flight.keys or one[2].needs_more_than_one]
        keys = [key for key, _, _ in jobs]
        if jobs:
            tokens = next_inputs([(key, job.token) for key, _, job in jobs], flight, session.device)
            logits = session.decode(tokens, [slot for _, slot, _ in jobs])
            if self._overlap and all(
                job.sequence is not None and job.sequence.steps_ahead for _, _, job in jobs
            ):
                rows = self._shaped(keys, logits)
                self._flight = Flight(tuple(key for key, _, _ in rows), HostCopy(drawn(rows, logits)))
        if flight is not None:
            self._land(flight)
        self._say()
        if jobs and self._flight is None:
            self._choose(keys, logits)

    def _land(self, flight: Flight) -> None:
        """Take the tokens of a step that was under way."""
        for key, token in zip(flight.keys, flight.chosen.values(), strict=True):
            job = self._jobs.get(key)
            if job is not None and not job.ended:  # else a step that was started before its end was known
                self._take(key, job, token, None)

    def _choose(self, keys: list[int], logits: Tensor) -> None:
        """Choose the next tokens from logits float32 [n, vocab], one row for each key, and report them."""
        rows = self._shaped(keys, logits)
        if rows:
            for (key, job, shaped), token in zip(rows, drawn(rows, logits).tolist(), strict=True):
                self._take(key, job, token, shaped)
        if not self._overlap:
            self._say()

    def _shaped(self, keys: list[int], logits: Tensor) -> list[Row]:
        """Logits float32 [n, vocab], one row for each key, by the settings of each request."""
        rows: list[Row] = []
        for key, own in zip(keys, logits.split(1), strict=True):
            job = self._jobs.get(key)
            if job is None or job.sequence is None:
                continue
            try:
                rows.append((key, job, job.sequence.shaped(own)))
            except MmbuildError as error:
                self._fail(key, error)
        return rows

    def _take(self, key: int, job: Answering, token: int, logits: Tensor | None) -> None:
        """Note a token. An answer that ends with it gives up its slot."""
        assert job.sequence is not None
        job.token = token
        known = len(job.sequence.ids)
        logprobs, reason = job.sequence.take(token, logits)
        has_text = len(job.sequence.ids) > known
        self._unsaid.append(ChosenToken(key, job, token if has_text else None, logprobs, reason))
        if reason is not None:
            job.ended = True
            with self._changed:
                self._scheduler.remove(key)

    def _say(self) -> None:
        """Make and report the text of the tokens that were chosen."""
        sends: set[Callable[[], None]] = set()
        while self._unsaid:
            said = self._unsaid.popleft()
            if said.key in self._jobs:
                sends.add(said.job.job.send)
                try:
                    self._say_token(said)
                except Exception as error:  # as in `_guarded`
                    self._fail(said.key, _as_reported(error))
        for send in sends:
            send()

    def _say_token(self, said: ChosenToken) -> None:
        assert said.job.sequence is not None
        reason = said.reason
        if said.token is not None:
            piece, stopped = said.job.sequence.say(said.token, said.logprobs)
            said.job.job.report(piece)
            reason = "stop" if stopped else reason
        if reason is not None:
            self._finish(said.key, said.job, reason)

    def _finish(self, key: int, job: Answering, reason: Finish) -> None:
        assert job.sequence is not None
        rest, text = job.sequence.finish()
        now = self._clock()
        if self._forget(key):
            self._services.append(now - job.started)
            if rest:
                job.job.report(Piece(rest, ()))
            done = Done(reason, text, tuple(job.sequence.ids), job.started - job.arrived, now - job.started)
            job.job.report(done)

    def _fail(self, key: int, error: MmbuildError) -> None:
        job = self._jobs.get(key)
        if job is not None and self._forget(key):
            job.job.report(Failed(error))
            job.job.send()

    def _forget(self, key: int) -> bool:
        """Remove a job; False if it is gone already."""
        with self._changed:
            known = self._jobs.pop(key, None) is not None
            self._scheduler.remove(key)
            return known


def _as_reported(error: Exception) -> MmbuildError:
    """The error that a request gets: MM872 for those that nobody expected."""
    if isinstance(error, MmbuildError):
        return error
    made = EngineError(
        f"the engine failed: {type(error).__name__}: {error}",
        code="MM872",
        hint="see the server's log; if it happens again, restart the server",
    )
    made.__cause__ = error
    _log.error("the engine failed", exc_info=error)
    return made
