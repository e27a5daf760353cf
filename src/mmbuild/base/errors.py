"""Errors reported to the user: what, where, why, what to do.

Everything that mmbuild raises on purpose is an :class:`MmbuildError`. The command line prints it without a
traceback (``--debug`` shows one) and exits with :attr:`MmbuildError.exit_status`. Any other exception is a
bug in mmbuild and exits with 2.
"""

from __future__ import annotations

from typing import ClassVar


class MmbuildError(Exception):
    """A failure of the input or of the build.

    Args:
        message: One sentence without a full stop that names the cause (path, key, tensor, layer).
        code: Stable code such as ``MM401``; ``mmbuild explain`` prints its entry in ``mmbuild/base/codes/*.yaml``.
        hint: What to do about it, one sentence without a full stop.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries: the parent reports a worker's failure.
        return (_restore, (type(self), self.message, self.code, self.hint))


def _restore(kind: type[MmbuildError], message: str, code: str, hint: str | None) -> MmbuildError:
    return kind(message, code=code, hint=hint)


class UsageError(MmbuildError):
    """The command line itself is wrong (exit status 2)."""

    exit_status = 2


class StalePlanError(MmbuildError):
    """A saved plan no longer describes what apply would do (exit status 4)."""

    exit_status = 4
