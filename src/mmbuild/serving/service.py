"""A loaded engine behind the protocol: requests to jobs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

from mmbuild.backends.torch.sampling import SEEDS, Sampling
from mmbuild.models.families.processor import Processor, Request, encode_chat, encode_complete
from mmbuild.models.families.turns import Turn
from mmbuild.serving.engine_loop import EngineLoop
from mmbuild.serving.errors import ProtocolError
from mmbuild.serving.jobs import Event, Job
from mmbuild.serving.pictures import PicturePolicy, open_pictures, read_picture, require_count
from mmbuild.serving.protocol import Chat, Completion, Generation, Message, Picture, Text, parse

_MOST_AT_ONCE = 4
_openers = ThreadPoolExecutor(min(_MOST_AT_ONCE, len(os.sched_getaffinity(0))), "pictures")
"""Open pictures. A large one takes a gigabyte, and each thread's allocator keeps a part: few threads bound both."""
_PLAIN_TOKENS = 16
"""Default ``max_tokens`` of plain completions, as of OpenAI's."""


class Preparers(Protocol):
    """What prepares requests elsewhere (:mod:`mmbuild.serving.preparation`)."""

    async def prepare(self, content: bytes, kind: type[Generation]) -> tuple[Any, Request]:
        """:func:`prepared`."""


@dataclass(frozen=True, slots=True)
class Service:
    """An engine that answers.

    Attributes:
        engine: The engine.
        loop: What runs it.
        model: Its name in the protocol.
        policy: Which pictures are taken.
        preparers: Processes that prepare requests; None: threads of this one do.
    """

    engine: Any
    loop: EngineLoop
    model: str
    policy: PicturePolicy
    preparers: Preparers | None = None

    async def prepare(self, content: bytes, kind: type[Generation]) -> tuple[Any, Request]:
        """:func:`prepared`, while the event loop goes on."""
        if self.preparers is not None:
            return await self.preparers.prepare(content, kind)
        return await run_in_threadpool(
            prepared, self.engine.processor, self.policy, self.model, content, kind
        )

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


def prepared(
    processor: Processor, policy: PicturePolicy, model: str, content: bytes, kind: type[Generation]
) -> tuple[Any, Request]:
    """Parse a request, read its pictures and encode its prompt. Takes milliseconds.

    Args:
        processor: The model's.
        policy: Which pictures are taken.
        model: The name of the model that is served.
        content: The request's body.
        kind: What it must be.

    Returns:
        The body without its messages or prompt, and the encoded prompt.

    Raises:
        ProtocolError: The body is wrong (MM874) or for another model (MM877), a picture is wrong (MM517, MM875), or
            the pictures are too many or too large (MM876).
        MmbuildError: The conversation is wrong (MM518).
    """
    body = parse(content, kind)
    if body.model not in (None, "", model):
        raise ProtocolError(
            f"the model `{body.model[:100]}` is not served here",
            code="MM877",
            hint=f"use `{model}`",
            status=404,
            param="model",
        )
    if isinstance(body, Completion):
        return body.model_copy(update={"prompt": []}), encode_complete(processor, body.prompt[0], [])
    turns, files = _conversation(body.messages, policy)
    bare = body.model_copy(update={"messages": []})
    if not files:
        return bare, encode_chat(processor, turns, [])
    return bare, _openers.submit(lambda: encode_chat(processor, turns, open_pictures(files, policy))).result()


def _conversation(
    messages: Sequence[Message], policy: PicturePolicy
) -> tuple[list[Turn], list[tuple[str, bytes]]]:
    """The turns, and the field and the file of each picture."""
    turns: list[Turn] = []
    files: list[tuple[str, bytes]] = []
    parts_of = [message.content for message in messages if isinstance(message.content, list)]
    require_count(sum(isinstance(part, Picture) for content in parts_of for part in content), policy)
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
                files.append((where, read_picture(part.image_url.url, policy, where)))
                parts.append(None)
        # The older name of the role that instructs the model is the one that templates know.
        role = "system" if message.role == "developer" else message.role
        turns.append(Turn(role, tuple(parts)))
    return turns, files


def _sampling(body: Generation, choice: int) -> Sampling:
    seed = secrets.randbelow(1 << 61) if body.seed is None else body.seed
    chosen = Sampling(
        temperature=body.temperature or 0.0,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
    )
    return replace(chosen, seed=(seed + choice) % SEEDS) if chosen.temperature else chosen
