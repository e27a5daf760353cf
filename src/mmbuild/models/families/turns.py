"""Messages of a conversation, for the families' processors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: ``user``, ``assistant`` or ``system``.
        parts: Texts, and None for each picture, in their order.
    """

    role: str
    parts: tuple[str | None, ...]
