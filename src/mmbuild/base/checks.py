"""Result of one check: what was found, what is required, and what to do about a difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    Attributes:
        name: The subject, a word or two.
        status: ``ok``; ``warn``, works or is not needed now; ``fail``, a build would fail or be wrong; ``unknown``,
            could not be checked.
        found: The actual value.
        required: The required value; empty if there is no requirement.
        why: Why it matters, one sentence without a full stop; empty if the check passed.
        hint: What to do; empty if nothing is to be done.
    """

    name: str
    status: Status
    found: str = ""
    required: str = ""
    why: str = ""
    hint: str = ""

    def document(self) -> dict[str, str]:
        """The check as plain data, under the keys that ``doctor --json`` and ``compat --json`` have always used."""
        return dict(zip(("name", "status", "found", "wanted", "why", "way"), astuple(self), strict=True))


@dataclass(frozen=True, slots=True)
class Group:
    """Checks of one thing, such as one toolchain."""

    title: str
    checks: tuple[Check, ...]


def failed_checks(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks that prevent a build."""
    return tuple(check for check in checks if check.status == "fail")
