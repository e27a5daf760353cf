"""What a rule objects to, before it is known where the user wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmbuild.base.diagnostics import Severity


@dataclass(frozen=True, slots=True)
class Violation:
    """What a rule objects to.

    Attributes:
        code: Its code.
        blame: Dotted keys, the most likely culprit first.
        message: One sentence without a full stop.
        hint: What to do.
        severity: ``error`` or ``warning``.
    """

    code: str
    blame: tuple[str, ...]
    message: str
    hint: str | None = None
    severity: Severity = "error"


def touches(keys: Iterable[str], faulty: Iterable[str]) -> bool:
    """Whether one of ``keys`` is one of ``faulty``, within one, or holds one (dotted paths)."""
    faulty = tuple(faulty)
    return any(_within(bad, key) or _within(key, bad) for key in keys for bad in faulty)


def _within(inner: str, outer: str) -> bool:
    return f"{inner}.".startswith(f"{outer}.")
