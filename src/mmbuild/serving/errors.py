"""Errors of the protocol, in OpenAI's form with mmbuild's codes."""

from __future__ import annotations

import math
from typing import Any

from mmbuild.base.errors import MmbuildError


class ProtocolError(MmbuildError):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status.
        param: The field that is wrong, as OpenAI names it.
    """

    def __init__(
        self, message: str, *, code: str, hint: str | None = None, status: int = 400, param: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status, self.param = status, param


# HTTP status of mmbuild's own codes; all others are the request's fault, 400.
_STATUS = {"MM870": 429, "MM871": 503, "MM872": 500, "MM523": 500, "MM727": 500, "MM585": 503}
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def status_of(error: MmbuildError) -> int:
    """The HTTP status of an error."""
    return error.status if isinstance(error, ProtocolError) else _STATUS.get(error.code, 400)


def body_of(error: MmbuildError) -> dict[str, Any]:
    """The JSON body of an error."""
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": getattr(error, "param", None),
            "code": error.code,
        }
    }


def retry_after(seconds: float) -> str:
    """Value of the header ``Retry-After``: whole seconds, 1 to 60."""
    return str(min(60, max(1, math.ceil(seconds))))
