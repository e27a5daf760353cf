"""Tokens to text piece by piece, and where an answer ends because of what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text without special tokens."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one answer as its tokens arrive.

    All pieces together are the text of all tokens without white space at its ends. Characters of several tokens are
    held back until they are complete, white space until something follows, and what may become a stop string until
    it is clear that it does not.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = (), unsettled: int = 0) -> None:
        """``stop``: strings that end the answer and are not part of it.

        ``unsettled``: number of characters at the end of a text that later tokens may change.
        """
        self._decode, self._stop, self._unsettled = decode, tuple(stop), unsettled
        self._ids: list[int] = []
        # Ids before `_start` are decoded no more; those up to `_read` are in the text.
        self._start = self._read = 0
        self._text = ""
        self._whole: str | None = None
        self._sent = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The text so far, what is held back included; of a finished answer, all its tokens decoded at once."""
        return (self._text if self._whole is None else self._whole).strip()

    def add(self, token: int) -> str:
        """The next piece of text, after one more token; empty if all of it is held back."""
        self._ids.append(token)
        self._extend()
        end = self._stop_at()
        if end is not None:
            self._text, self.stopped = self._text[:end], True
            return self._take(len(self._text.rstrip()))
        settled = max(0, len(self._text) - self._unsettled)
        certain = min((_before_prefix(self._text, stop) for stop in self._stop), default=settled)
        certain = min(certain, settled)
        return self._take(len(self._text[:certain].rstrip()))

    def finish(self) -> str:
        """What was held back, after the last token."""
        if not self.stopped and self._ids:
            self._whole = self._decode(self._ids)
            if self._whole.startswith(self._text[: self._sent]):
                self._text = self._whole
            elif self._read < len(self._ids):
                # Bytes that turn out to be no character: what was sent cannot be taken back.
                self._text += self._decode(self._ids[self._start :])[len(self._known()) :]
            self._read = len(self._ids)
        return self._take(len(self._text.rstrip()))

    def _extend(self) -> None:
        """Add the text of the newest tokens."""
        if self._unsettled:
            self._text = self._decode(self._ids)
        else:
            self._text += self._new_text()

    def _known(self) -> str:
        known = self._ids[self._start : self._read]
        # Some decoders of tokenizers fail if there is nothing to decode.
        return self._decode(known) if known else ""

    def _new_text(self) -> str:
        """The text that the newest tokens add. Some tokens before them are decoded again, because the text of a token
        can depend on the one before."""
        before, whole = self._known(), self._decode(self._ids[self._start :])
        if len(whole) <= len(before) or whole.endswith(_UNKNOWN):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return whole[len(before) :]

    def _stop_at(self) -> int | None:
        """Where the first stop string begins."""
        places = [self._text.find(stop, max(0, self._sent - len(stop))) for stop in self._stop]
        return min((place for place in places if place >= 0), default=None)

    def _take(self, end: int) -> str:
        start = self._sent
        if start == 0:
            start = len(self._text) - len(self._text.lstrip())
        if end <= start:
            return ""
        self._sent = end
        return self._text[start:end]


def _before_prefix(text: str, stop: str) -> int:
    """The length of ``text`` without what may be the beginning of ``stop`` at its end."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return len(text) - length
    return len(text)
