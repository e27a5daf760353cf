"""Answers in the form of OpenAI's protocol: whole ones, and the chunks of streams."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbuild.serving.jobs import Done, TokenLogprob

_MARK = "\0"
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

Spell = Callable[[int], str]
"""The text of a token."""


@dataclass(frozen=True, slots=True)
class Form:
    """Chat or plain completions.

    Attributes:
        chat: Which of them.
        model: The model's name in answers.
        spell: The text of a token.
        id: Of the answer.
        created: Its time, in seconds since 1970.
    """

    chat: bool
    model: str
    spell: Spell
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    _frames: dict[int, tuple[str, str]] = field(default_factory=dict)

    def whole(
        self, choices: Sequence[tuple[Done, Sequence[TokenLogprob] | None]], prompt: int
    ) -> dict[str, Any]:
        """An answer that is not streamed; ``prompt``: tokens of the prompt."""
        made = [self._choice(index, done, logprobs) for index, (done, logprobs) in enumerate(choices)]
        tokens = sum(len(done.tokens) for done, _ in choices)
        return {**self._head(""), "choices": made, "usage": usage(prompt, tokens)}

    def _choice(self, index: int, done: Done, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any]:
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": done.text}} if self.chat else {"text": done.text}
        )
        shown = None if logprobs is None else self.logprobs(logprobs)
        return {"index": index, **content, "logprobs": shown, "finish_reason": done.reason}

    def chunk(
        self,
        index: int,
        text: str | None,
        logprobs: Sequence[TokenLogprob] | None = None,
        reason: str | None = None,
        *,
        first: bool = False,
    ) -> dict[str, Any]:
        """A chunk of a stream."""
        content: dict[str, Any]
        if self.chat:
            delta = {
                **({"role": "assistant"} if first else {}),
                **({} if text is None else {"content": text}),
            }
            content = {"delta": delta}
        else:
            content = {"text": text or ""}
        shown = None if logprobs is None else self.logprobs(logprobs)
        choice = {"index": index, **content, "logprobs": shown, "finish_reason": reason}
        return {**self._head(".chunk"), "choices": [choice]}

    def text_chunk(self, index: int, text: str) -> str:
        """As JSON, a chunk that holds nothing but text: most of them."""
        start, end = self._frames.get(index) or self._frame(index)
        return f"{start}{json.dumps(text)}{end}"

    def _frame(self, index: int) -> tuple[str, str]:
        """What surrounds the text of a chunk."""
        start, _, end = json.dumps(self.chunk(index, _MARK)).partition(json.dumps(_MARK))
        return self._frames.setdefault(index, (start, end))

    def last_chunk(self, prompt: int, tokens: int) -> dict[str, Any]:
        """The chunk that says how many tokens there were."""
        return {**self._head(".chunk"), "choices": [], "usage": usage(prompt, tokens)}

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model}

    def logprobs(self, values: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Log probabilities in the form of the endpoint."""
        if self.chat:
            return {"content": [self._chat_logprob(value) for value in values]}
        return {
            "tokens": [self.spell(value.token) for value in values],
            "token_logprobs": [value.logprob for value in values],
            "top_logprobs": [self._by_text(value) or None for value in values],
        }

    def _by_text(self, value: TokenLogprob) -> dict[str, float]:
        """Log probabilities of the most likely tokens; of those with the same text that of the likeliest."""
        shown: dict[str, float] = {}
        for token, logprob in value.top:
            shown.setdefault(self.spell(token), logprob)
        return shown

    def _chat_logprob(self, value: TokenLogprob) -> dict[str, Any]:
        pairs = [self._spelled(token, logprob) for token, logprob in value.top]
        return {**self._spelled(value.token, value.logprob), "top_logprobs": pairs}

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.spell(token)
        # The bytes of a part of a character are unknown, for which the protocol has null.
        known = None if _UNKNOWN in text else list(text.encode("utf-8", "replace"))
        return {"token": text, "logprob": logprob, "bytes": known}


def usage(prompt: int, tokens: int) -> dict[str, int]:
    """Numbers of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
