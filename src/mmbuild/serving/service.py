"""A loaded engine behind the protocol: requests to jobs."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmbuild.backends.torch.sampling import Sampling
from mmbuild.models.families.processor import Request, encode_chat, encode_complete
from mmbuild.models.families.turns import Turn
from mmbuild.serving.engine_loop import EngineLoop
from mmbuild.serving.errors import ProtocolError
from mmbuild.serving.jobs import Event, Job
from mmbuild.serving.pictures import PicturePolicy, read_picture
from mmbuild.serving.protocol import Chat, Completion, Generation, Message, Text

_PLAIN_TOKENS = 16
"""Default ``max_tokens`` of plain completions, as of OpenAI's."""


@dataclass(frozen=True, slots=True)
class Service:
    """An engine that answers.

    Attributes:
        engine: The engine.
        loop: What runs it.
        model: Its name in the protocol.
        policy: Which pictures are taken.
        preparing: Held while a request is prepared: two threads of Python would take turns, and hold up the engine's.
    """

    engine: Any
    loop: EngineLoop
    model: str
    policy: PicturePolicy
    preparing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check_model(self, body: Generation) -> None:
        """Check that a request is for this model.

        Raises:
            ProtocolError: MM877, status 404.
        """
        if body.model not in (None, "", self.model):
            raise ProtocolError(
                f"the model `{body.model[:100] if body.model else ''}` is not served here",
                code="MM877",
                hint=f"use `{self.model}`",
                status=404,
                param="model",
            )

    def encode(self, body: Chat | Completion) -> Request:
        """Read the pictures of a request and encode its prompt. Takes time: not for the event loop.

        Raises:
            MmbuildError: The request is wrong: a picture (MM517, MM875), or the conversation (MM518).
        """
        if isinstance(body, Completion):
            with self.preparing:
                return encode_complete(self.engine.processor, body.prompt[0], [])
        turns, pictures = _conversation(body.messages, self.policy)
        with self.preparing:
            return encode_chat(self.engine.processor, turns, pictures)

    def job(
        self,
        body: Chat | Completion,
        request: Request,
        choice: int,
        report: Callable[[Event], None],
        send: Callable[[], None],
    ) -> Job:
        """The job for one choice of a request; ``report`` and ``send`` as in :class:`Job`."""
        limit = self.engine.config.max_output_len
        if isinstance(body, Completion):
            most, wanted = body.max_tokens or min(_PLAIN_TOKENS, limit), body.logprobs
        else:
            most = body.max_completion_tokens or body.max_tokens or limit
            wanted = (body.top_logprobs or 0) if body.logprobs else None
        stopping = self.engine.stopping(most, ignore_eos=bool(body.ignore_eos))
        return Job(request, stopping, _sampling(body, choice), tuple(body.stop or ()), wanted, report, send)


def _conversation(messages: Sequence[Message], policy: PicturePolicy) -> tuple[list[Turn], list[bytes]]:
    turns: list[Turn] = []
    pictures: list[bytes] = []
    for number, message in enumerate(messages):
        parts: list[str | None] = []
        content = message.content if isinstance(message.content, list) else [message.content or ""]
        for place, part in enumerate(content):
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Text):
                parts.append(part.text)
            else:
                where = f"messages.{number}.content.{place}.image_url"
                pictures.append(read_picture(part.image_url.url, policy, where))
                parts.append(None)
        # The older name of the role that instructs the model is the one that templates know.
        role = "system" if message.role == "developer" else message.role
        turns.append(Turn(role, tuple(parts)))
    return turns, pictures


def _sampling(body: Generation, choice: int) -> Sampling:
    seed = secrets.randbelow(1 << 61) if body.seed is None else body.seed
    chosen = Sampling(
        temperature=body.temperature or 0.0,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
    )
    return replace(chosen, seed=seed + choice) if chosen.temperature else chosen
