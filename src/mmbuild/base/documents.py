"""Reads the documents that mmbuild writes for people to keep: JSON with a format, a version and known fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import Check
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import Limit


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document.

    Attributes:
        format: Value of its field ``format``.
        version: Value of its field ``version``.
        written_by: The command that writes it.
        fields: What is wrong with its fields, or None.
        limits: Its size.
        refuse: Makes the error for ```PATH` PROBLEM``.
    """

    format: str
    version: int
    written_by: str
    fields: Check
    limits: Limit
    refuse: Callable[[str], MmbuildError]

    def read(self, path: Path) -> dict[str, Any]:
        """Read a document.

        Raises:
            MmbuildError: That of ``refuse``: it is not one, is damaged, or has another version.
        """
        try:
            content = read_object(path, self.limits)
        except FileRefusedError as error:
            raise self._refusal(path, error.problem) from None
        except OSError as error:
            raise self._refusal(path, f"cannot be read: {error.strerror}") from None
        if content.get("format") != self.format:
            raise self._refusal(path, f"is not a result of `{self.written_by}`")
        if content.get("version") != self.version:
            shown = str(content.get("version"))[:40]
            raise self._refusal(path, f"has version {shown}, but this mmbuild reads version {self.version}")
        problem = self.fields(content, "")
        if problem is not None:
            raise self._refusal(path, f"is damaged: {problem}")
        return content

    def _refusal(self, path: Path, problem: str) -> MmbuildError:
        return self.refuse(f"`{path}` {problem}")
