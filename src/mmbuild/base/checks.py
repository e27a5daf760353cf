"""One check: what was found, what was wanted, and the way there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at.

    Attributes:
        name: What it is about, a word or two.
        status: ``ok``; ``warn``, works or is not needed now; ``fail``, a build would fail or be wrong; ``unknown``,
            could not be looked at.
        found: What is there.
        wanted: What should be; empty where nothing is asked for.
        why: Why that matters, one sentence without a full stop; empty where all is well.
        way: What to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str = ""
    wanted: str = ""
    why: str = ""
    way: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Checks of one thing, such as one toolchain."""

    title: str
    checks: tuple[Check, ...]


def failed_checks(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those that stand in the way of a build."""
    return tuple(check for check in checks if check.status == "fail")


def size_text(count: float) -> str:
    """Bytes for people: ``1.5 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
