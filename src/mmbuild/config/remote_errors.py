"""Base of the shared store's errors, and the warnings that report them where a build goes on without the store."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from mmbuild.base.errors import MmbuildError


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning: one sentence without a full stop, its code, and what to do."""

    message: str
    code: str
    hint: str = ""


class RemoteError(MmbuildError):
    """A request to the shared store failed (MM820 to MM829)."""


def to_stderr(notice: Notice) -> None:
    """Print a warning."""
    print(f"warning: {notice.message} [{notice.code}]", file=sys.stderr)
    if notice.hint:
        print(f"  hint: {notice.hint}", file=sys.stderr)


def notice_of(error: MmbuildError) -> Notice:
    """Return an error as a warning."""
    return Notice(error.message, error.code, error.hint or "")
