"""Questions of a data set: a JSONL file of ``{"image", "prompt", "answer"}`` with its pictures next to it.

``image`` is a path relative to the file, an array of them, or null; ``prompt`` a text or null; ``answer`` a text or
an array of accepted ones. The whole file is checked before an engine is loaded, and all problems are reported
together.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from json import JSONDecoder
from pathlib import Path
from typing import Any

from mmbuild.base.canonical_json import hash_json
from mmbuild.base.diagnostics import Diagnostic, FindingsError, nearest
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import Check, fits, list_of, optional, text, wrong
from mmbuild.base.files import FileRefusedError, is_within, read_file, read_lines
from mmbuild.base.json_reader import JsonProblemError, JsonSyntaxError, parse_json
from mmbuild.base.limits import DATA_BYTES, DATA_LINES, QUESTION_LINE
from mmbuild.base.near_paths import path_hint
from mmbuild.models.errors import EngineError
from mmbuild.models.images import PICTURE_BYTES, require_header

KEYS = ("image", "prompt", "answer")
_MOST_FINDINGS = 100
_LONGEST, _MOST_IMAGES, _MOST_ANSWERS = 1_000_000, 100, 1_000
_EXAMPLE = 'write lines like {"image": "pictures/1.png", "prompt": "...", "answer": "..."}'
_BLANK = " \t\r\n"


class DataError(MmbuildError):
    """The data set cannot be read (MM890)."""


class QuestionsError(FindingsError):
    """Lines of the data set are not questions (MM890), or name pictures that cannot be used (MM891)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A line of the file.

    Attributes:
        line: Line number, from 1.
        images: Pictures as named in the line.
        paths: The same as absolute paths.
        prompt: The prompt; None for models that take no text.
        accepted: Accepted answers, at least one.
        digest: BLAKE3 of prompt, accepted answers and the content of the pictures, 64 hexadecimal digits.
    """

    line: int
    images: tuple[str, ...]
    paths: tuple[str, ...]
    prompt: str | None
    accepted: tuple[str, ...]
    digest: str


def read(path: Path, *, limit: int | None = None, allow_outside: bool = False) -> list[Question]:
    """Read and check questions; blank lines are skipped.

    Args:
        path: JSONL file.
        limit: Read only the first ``limit`` questions; lines after them are not checked.
        allow_outside: Accept pictures that are not below the file's directory.

    Raises:
        DataError: MM890, the file cannot be read or has no questions.
        QuestionsError: MM890, MM891, all findings (the first 100).
    """
    pictures = _Pictures(path.parent, allow_outside)
    questions: list[Question] = []
    findings: list[Diagnostic] = []
    for number, line in _lines(path):
        if len(questions) == limit or len(findings) >= _MOST_FINDINGS:
            break
        made = _question(path, number, line, pictures)
        if isinstance(made, Question):
            questions.append(made)
        else:
            findings += made
    if findings:
        raise QuestionsError(findings[:_MOST_FINDINGS])
    if not questions:
        raise DataError(f"`{path}` contains no questions", code="MM890", hint=_EXAMPLE)
    return questions


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        for number, line in enumerate(read_lines(path, QUESTION_LINE, DATA_LINES, DATA_BYTES), start=1):
            if line.strip():
                yield number, line
    except (OSError, FileRefusedError) as error:
        problem = getattr(error, "problem", "")
        reason = f"it {problem}" if problem else getattr(error, "strerror", None) or str(error)
        hint = path_hint(path, _EXAMPLE) if isinstance(error, FileNotFoundError) else _EXAMPLE
        raise DataError(f"cannot read questions from `{path}`: {reason}", code="MM890", hint=hint) from None


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Checks pictures, each file once.

    Attributes:
        home: Directory of the JSONL file.
        allow_outside: Whether pictures may be elsewhere.
        known: Path -> digest of the content, or the problem.
    """

    home: Path
    allow_outside: bool
    known: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    def look_up(self, name: str) -> tuple[str, str | None, str]:
        """Absolute path, digest of the content (None: it cannot be used), and the problem."""
        path = str((self.home / name).absolute())
        if path not in self.known:
            self.known[path] = self._checked(Path(path))
        return path, *self.known[path]

    def _checked(self, path: Path) -> tuple[str | None, str]:
        from blake3 import blake3

        if not self.allow_outside and not is_within(path, [self.home]):
            return None, f"is outside `{self.home.absolute()}`"
        try:
            if importlib.util.find_spec("PIL") is not None:  # not needed for engines of other programs
                require_header(path)
            return blake3(read_file(path, PICTURE_BYTES)).hexdigest(), ""
        except EngineError as error:
            return None, f"cannot be used: {getattr(error, 'reason', '') or error.message}"
        except (OSError, FileRefusedError) as error:
            return None, getattr(
                error, "problem", ""
            ) or f"cannot be read: {getattr(error, 'strerror', error)}"


def _question(path: Path, number: int, line: bytes, pictures: _Pictures) -> Question | list[Diagnostic]:
    shown = line.decode("utf-8", "replace")
    finding = partial(Diagnostic, file=str(path), line=number, excerpt=shown)
    try:
        content = parse_json(line, QUESTION_LINE, unique_names=True)
    except JsonSyntaxError as error:
        message = f"the line is not JSON: {error.reason}"
        return [finding("MM890", message, column=error.column, hint=_EXAMPLE)]
    except JsonProblemError as error:
        return [finding("MM890", f"the line {error}", column=1, hint=_EXAMPLE)]
    if not isinstance(content, dict):
        return [finding("MM890", "a question must be a JSON object", column=1, hint=_EXAMPLE)]
    places = key_places(shown)
    problems = [
        finding(problem.code, problem.message, column=place, width=width, path=problem.key, **problem.more)
        for problem in _problems(content, pictures)
        for place, width in [places.get(problem.key, (1, 1))]
    ]
    return problems or _made(number, content, pictures)


@dataclass(frozen=True, slots=True)
class _Problem:
    key: str
    message: str
    code: str = "MM890"
    more: Mapping[str, Any] = field(default_factory=dict)


def _problems(content: Mapping[str, Any], pictures: _Pictures) -> Iterator[_Problem]:
    for key in content:
        if key not in KEYS:
            more = {"allowed": KEYS, "suggestion": nearest(key, KEYS)}
            yield _Problem(key, f"unknown key `{key[:80]}`", more=more)
    if "answer" not in content:
        yield _Problem(
            "", "`answer` is missing", more={"hint": "add the accepted answer, or an array of them"}
        )
    wrong_keys = set()
    for key, check in _CHECKS.items():
        problem = check(content[key], key) if key in content else None
        if problem is not None:
            wrong_keys.add(key)
            yield _Problem(key, problem)
    if content.get("image") is None and content.get("prompt") is None:
        yield _Problem("", "the line has neither `image` nor `prompt`", more={"hint": _EXAMPLE})
    if "image" in wrong_keys:
        return
    for name in _listed(content.get("image")):
        _, digest, problem = pictures.look_up(name)
        if digest is None:
            hint = "name pictures below the directory of the JSONL file, relative to it"
            if problem.startswith("is outside"):
                hint += ", or accept others with `--allow-outside`"
            yield _Problem("image", f"picture `{name}` {problem}", "MM891", {"hint": hint})


def _made(number: int, content: Mapping[str, Any], pictures: _Pictures) -> Question:
    images, accepted = _listed(content.get("image")), _listed(content["answer"])
    found = [pictures.look_up(name) for name in images]
    prompt = content.get("prompt")
    digest = hash_json({"images": [one[1] for one in found], "prompt": prompt, "answers": sorted(accepted)})
    return Question(number, images, tuple(one[0] for one in found), prompt, accepted, digest)


def _listed(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _path(value: Any, name: str) -> str | None:
    good = isinstance(value, str) and value and fits(value)
    return None if good else wrong(value, name, "a path")


def _one_or_several(check: Check, most: int) -> Check:
    several = list_of(check, most, least=1)
    return lambda value, name: (several if isinstance(value, list) else check)(value, name)


_CHECKS: Mapping[str, Check] = {
    "image": optional(_one_or_several(_path, _MOST_IMAGES)),
    "prompt": optional(text(_LONGEST, least=1)),
    "answer": _one_or_several(text(_LONGEST), _MOST_ANSWERS),
}


def key_places(line: str) -> dict[str, tuple[int, int]]:
    """Column, from 1, and width in characters of each key of the valid JSON object in ``line``, quotes included."""
    decoder, places = JSONDecoder(), {}
    at = _after_blanks(line, line.index("{") + 1)
    while line[at] == '"':
        key, end = decoder.raw_decode(line, at)
        places[key] = (at + 1, end - at)
        start = _after_blanks(line, _after_blanks(line, end) + 1)  # the colon is between them
        at = _after_blanks(line, decoder.raw_decode(line, start)[1])
        if line[at] == ",":
            at = _after_blanks(line, at + 1)
    return places


def _after_blanks(line: str, at: int) -> int:
    while line[at] in _BLANK:
        at += 1
    return at


def pairs(questions: Iterable[Question]) -> list[tuple[tuple[str, ...], str | None]]:
    """Pictures and prompt of each question, as :class:`mmbuild.backends.base.RunRequest` takes them."""
    return [(question.paths, question.prompt) for question in questions]
