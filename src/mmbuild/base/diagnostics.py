"""Diagnostics: problems in an input, with their source locations.

Importing this module is cheap (no pydantic, no YAML), so that every command can print diagnostics.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mmbuild.base.errors import MmbuildError
from mmbuild.base.folding import fold, glued
from mmbuild.base.terminal_text import clean, one_line

Severity = Literal["error", "warning"]

_COLORS = {"error": "31;1", "warning": "33;1", "where": "36", "caret": "31;1", "hint": "32", "code": "2"}
# For longer lines, only the part around the caret is shown.
_WIDEST, _LEAD, _CUT = 120, 40, "..."
_TAB = "    "
_MARGIN = len("    1 | ")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A finding.

    Attributes:
        code: Stable code such as ``MM103``; ``mmbuild explain MM103`` prints more.
        message: One sentence without a full stop.
        severity: ``error`` or ``warning``.
        file: The file, or ``--set KEY=VALUE`` for a value from the command line.
        line: Line in the file, from 1; 0 if unknown.
        column: Column in characters, from 1; 0 if unknown.
        path: Dotted path of the key, as the user wrote it (``engine.quantization``); may be empty.
        allowed: Allowed values, if they can be listed.
        suggestion: The most similar valid spelling.
        hint: What to do about it, one sentence without a full stop.
        excerpt: The source line at ``line``, without its line break.
        width: Number of characters to underline.
        lead: Number of characters of ``excerpt`` before them, if not ``column - 1``.
    """

    code: str
    message: str
    severity: Severity = "error"
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    allowed: tuple[str, ...] = ()
    suggestion: str | None = None
    hint: str | None = None
    excerpt: str = ""
    width: int = 1
    lead: int | None = None

    @property
    def where(self) -> str:
        """``file:line:column``, as far as known."""
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])


class FindingsError(MmbuildError):
    """Files have errors. The error's code is that of the first finding."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        errors = [item for item in self.diagnostics if item.severity == "error"] or list(self.diagnostics)
        code = errors[0].code if errors else "MM100"
        super().__init__(_headline(errors), code=code, hint=errors[0].hint if len(errors) == 1 else None)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.diagnostics,))


class RecipeError(FindingsError):
    """Recipes have errors."""


def diagnostics_of(error: MmbuildError) -> tuple[Diagnostic, ...]:
    """The findings of ``error``; of an error without findings, itself as the only one, without a place."""
    if isinstance(error, FindingsError):
        return error.diagnostics
    return (Diagnostic(error.code, error.message, hint=error.hint),)


def _headline(errors: Sequence[Diagnostic]) -> str:
    if len(errors) == 1:
        return f"{errors[0].where}: {errors[0].message}"
    files = len({item.file for item in errors})
    return f"{len(errors)} findings in {files} {'file' if files == 1 else 'files'}"


def render_text(diagnostics: Sequence[Diagnostic], color: bool = False, *, width: int | None = None) -> str:
    """Format findings for a terminal: location, message, source line with a caret, allowed values, hint.

    Sentences are folded to ``width`` columns, and less of a long source line is shown; None means any width.
    """

    def paint(style: str, text: str) -> str:
        return f"\x1b[{_COLORS[style]}m{text}\x1b[0m" if color else text

    return "\n".join(_block(_escape_controls(item), paint, width) for item in diagnostics)


def _escape_controls(item: Diagnostic) -> Diagnostic:
    """Return ``item`` with control characters escaped, since they could move the cursor or hide text."""
    before = item.excerpt[: max(item.column - 1, 0)]
    return replace(
        item,
        message=one_line(item.message),
        file=one_line(item.file),
        path=one_line(item.path),
        allowed=tuple(map(one_line, item.allowed)),
        suggestion=None if item.suggestion is None else one_line(item.suggestion),
        hint=None if item.hint is None else one_line(item.hint),
        excerpt=clean(item.excerpt, newline="\\n"),
        # Escapes are longer than the original characters, so the caret moves with them.
        lead=len(clean(before, newline="\\n")),
    )


def _block(item: Diagnostic, paint: Callable[[str, str], str], columns: int | None) -> str:
    lines = [_head(item, paint, columns)]
    if item.excerpt:
        shown, before, width = _window(item, _WIDEST if columns is None else min(_WIDEST, columns - _MARGIN))
        # Expand tabs in both lines, so that the caret stays aligned.
        lines.append(f"{item.line:>5} | " + shown.replace("\t", _TAB))
        pad = " " * len(before.replace("\t", _TAB))
        lines.append(" " * 5 + " | " + pad + paint("caret", "^" * width))
    if item.allowed:
        lines.append(fold(f"      allowed: {', '.join(item.allowed)}", columns))
    if item.suggestion:
        lines.append(fold(f"      did you mean: {item.suggestion}", columns))
    if item.hint:
        hint = fold(f"      hint: {item.hint}", columns)
        lines.append(hint.replace("hint:", paint("hint", "hint:"), 1))
    return "\n".join(lines) + "\n"


def _head(item: Diagnostic, paint: Callable[[str, str], str], columns: int | None) -> str:
    """Location, severity, message and code, folded before they are coloured."""
    where, code = f"{item.where}: " if item.where else "", f"[{item.code}]"
    text = fold(f"{glued(f'{where}{item.severity}:')} {item.message} {code}", columns)
    text = text.removeprefix(where).removeprefix(f"{item.severity}:").removesuffix(code)
    shown = f"{paint('where', item.where)}: " if item.where else ""
    return f"{shown}{paint(item.severity, item.severity)}:{text}{paint('code', code)}"


def _window(item: Diagnostic, widest: int) -> tuple[str, str, int]:
    """Return the part of the line around the caret, its part before the caret, and the caret's width.

    Lines of at most ``widest`` characters are shown as a whole.
    """
    column = max(item.column - 1, 0) if item.lead is None else item.lead
    width = max(item.width, 1)
    if len(item.excerpt) <= widest:
        return item.excerpt, item.excerpt[:column], width
    most = widest if widest == _WIDEST else max(widest - 2 * len(_CUT), 1)
    lead = min(_LEAD, most // 2)
    start = max(0, column - lead) if column > lead else 0
    part = item.excerpt[start : start + most]
    left, right = _CUT if start else "", _CUT if start + most < len(item.excerpt) else ""
    before = left + part[: column - start]
    return left + part + right, before, max(1, min(width, len(part) - (column - start)))


def render_json(diagnostics: Sequence[Diagnostic], *, indent: int | None = 2) -> str:
    """Format findings as a JSON document, ``{"version": 1, "diagnostics": [...]}``.

    It is one line if ``indent`` is None.
    """
    rows = [
        {
            "code": item.code,
            "severity": item.severity,
            "message": item.message,
            "file": item.file,
            "line": item.line,
            "column": item.column,
            "path": item.path,
            "allowed": list(item.allowed),
            "suggestion": item.suggestion,
            "hint": item.hint,
        }
        for item in diagnostics
    ]
    return json.dumps({"version": 1, "diagnostics": rows}, indent=indent, ensure_ascii=False)


def render_github(diagnostics: Sequence[Diagnostic]) -> str:
    """Format findings as GitHub workflow commands, one line each, which annotate the changed files.

    Format and escaping: "Workflow commands for GitHub Actions", GitHub Docs.
    """
    return "\n".join(_annotation(_escape_controls(item)) for item in diagnostics)


def workflow_command(name: str, message: str, properties: Mapping[str, object]) -> str:
    """Return ``::name key=value,...::message``, escaped; empty properties are left out."""
    listed = ",".join(f"{key}={_escape(str(value), ',:')}" for key, value in properties.items() if value)
    return f"::{name}{' ' if listed else ''}{listed}::{_escape(message, '')}"


def _annotation(item: Diagnostic) -> str:
    properties = {"file": item.file, "line": item.line, "col": item.column, "title": item.code}
    parts = [item.message]
    if item.allowed:
        parts.append(f"allowed: {', '.join(item.allowed)}")
    if item.suggestion:
        parts.append(f"did you mean: {item.suggestion}")
    if item.hint:
        parts.append(f"hint: {item.hint}")
    return workflow_command(item.severity, "\n".join(parts), properties)


def _escape(text: str, more: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    for character in more:
        escaped = escaped.replace(character, f"%{ord(character):02X}")
    return escaped


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule violation not yet mapped to a source location.

    Attributes:
        code: Its code.
        blame: Dotted keys, the most likely cause first.
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
    """Return whether one of ``keys`` equals, is inside or contains one of ``faulty`` (dotted paths)."""
    faulty = tuple(faulty)
    return any(_within(bad, key) or _within(key, bad) for key in keys for bad in faulty)


def _within(inner: str, outer: str) -> bool:
    return f"{inner}.".startswith(f"{outer}.")


def nearest(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar of ``words``, else one that contains ``word``, else None.

    A word that differs only in upper and lower case is the most similar. ``cutoff`` is difflib's minimum similarity,
    0 to 1.
    """
    cased = next((item for item in words if item != word and item.lower() == word.lower()), None)
    if cased is not None:
        return cased
    matches = difflib.get_close_matches(word, words, n=1, cutoff=cutoff)
    if matches:
        return matches[0]
    containing = (item for item in words if len(word) >= 3 and word.lower() in item.lower())
    return next(containing, None)
