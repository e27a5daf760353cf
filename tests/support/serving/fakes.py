"""An engine without a model: every answer is the numbers after the last token of its prompt."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import torch

from mmbuild.backends.torch.generate import Stopping
from mmbuild.backends.torch.sampling import Sampling
from mmbuild.models.families.processor import Processor, Request
from mmbuild.serving.jobs import Done, Failed, Job, Piece

VOCABULARY = 100
END = 99


class FakeSession:
    """Next token: the last one plus one. Keeps what every row has read, and checks that rows are used rightly."""

    device = "cpu"

    def __init__(self, slots: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.calls: list[tuple] = []
        self.fail: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self) -> None:
        """As :meth:`Session.prepare`."""

    def _logits(self, rows) -> torch.Tensor:
        self.gate.wait(240)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        logits = torch.full((len(rows), VOCABULARY), -10.0)
        for place, row in enumerate(rows):
            logits[place, (self.rows[row][-1] + 1) % VOCABULARY] = 10.0
        return logits

    def prefill(self, prompts, table, rows) -> torch.Tensor:  # noqa: ARG002
        self.calls.append(("prefill", tuple(map(len, prompts)), tuple(rows)))
        for prompt, row in zip(prompts, rows, strict=True):
            self.rows[row] = list(prompt)
        return self._logits(rows)

    def extend(self, prompts, table, rows) -> torch.Tensor:  # noqa: ARG002
        self.calls.append(("extend", tuple(map(len, prompts)), tuple(rows)))
        for prompt, row in zip(prompts, rows, strict=True):
            self.rows[row] += prompt
        return self._logits(rows)

    def decode(self, tokens, rows) -> torch.Tensor:
        self.calls.append(("decode", (1,) * len(rows), tuple(rows)))
        for token, row in zip(tokens.tolist(), rows, strict=True):
            self.rows[row].append(token)
        return self._logits(rows)


class FakeEngine:
    """What the service uses of an engine."""

    def __init__(self, slots: int = 3, longest: int = 40) -> None:
        self.session = FakeSession(slots)
        self.config = SimpleNamespace(
            max_batch_size=slots,
            max_input_len=50,
            max_output_len=longest,
            llm=SimpleNamespace(cross_attention=False),
        )
        self.processor = Processor(None, self._encode, None, self._encode_chat)

    def prepare(self) -> None:
        """As :meth:`Engine.prepare`."""

    def _encode(self, prompt, pictures) -> Request:  # noqa: ARG002
        return request(*map(int, (prompt or "1").split()))

    def _encode_chat(self, turns, pictures) -> Request:  # noqa: ARG002
        return self._encode(" ".join(part for turn in turns for part in turn.parts if part), [])

    def inputs(self, requests):
        return [list(one.ids) for one in requests], torch.empty(0)

    def stopping(self, count=None, *, ignore_eos=False) -> Stopping:
        return Stopping(count or self.config.max_output_len, () if ignore_eos else (END,))

    unsettled_characters = 0

    def decoded(self, ids) -> str:
        return "".join(f"{token} " for token in ids)


def request(*ids: int) -> Request:
    return Request(ids, torch.empty(0))


class Asked:
    """A job and what came of it."""

    def __init__(self, *ids: int, tokens: int = 5, stop=(), logprobs=None, **sampling) -> None:
        self.events: list = []
        self.ended = threading.Event()
        self.job = Job(
            request(*ids), Stopping(tokens, (END,)), Sampling(**sampling), stop, logprobs, self._report
        )

    def _report(self, event) -> None:
        self.events.append(event)
        if isinstance(event, Done | Failed):
            self.ended.set()

    def end(self):
        """The last event."""
        assert self.ended.wait(240), self.events
        return self.events[-1]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))
