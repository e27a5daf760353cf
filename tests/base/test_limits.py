"""Limits: each is what refuses the text that exceeds it, and every parser of foreign files has one."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import mmbuild
from mmbuild.base.files import FileRefusedError, read_file, read_json
from mmbuild.base.json_text import JsonProblemError, parse_json
from mmbuild.base.limits import LIMITS, Limit

SOURCE = Path(mmbuild.__file__).parent
ANY = 1 << 40

# A text that exceeds one number of a row and none of the others, which are made small so that texts are.
EXCESS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "size": (2_000, lambda most: b" " * most + b"1"),
    "depth": (64, lambda most: b"[" * (most + 1) + b"]" * (most + 1)),
    "values": (300, lambda most: b"[" + b"1," * most + b"1]"),
    "length": (500, lambda most: json.dumps("x" * (most + 1)).encode()),
}


def row(limit: Limit, number: str, most: int) -> Limit:
    """`limit` with one number, no greater than it is, and the others without effect."""
    wide = replace(limit, size=ANY, depth=900, values=ANY, length=ANY)
    return replace(wide, **{number: min(most, getattr(limit, number))})


@pytest.mark.parametrize("number", EXCESS)
@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.kind)
def test_what_exceeds_one_number_is_refused_by_it_and_by_nothing_else(limit: Limit, number: str) -> None:
    most, excess = EXCESS[number]
    tight = row(limit, number, most)
    text = excess(getattr(tight, number))
    with pytest.raises(JsonProblemError):
        parse_json(text, tight)
    parse_json(text, replace(tight, **{number: 900 if number == "depth" else ANY}))


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.kind)
def test_a_file_beyond_its_size_is_not_read_into_memory(limit: Limit, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(limit.size + 1)
    for read in (read_file, read_json):
        with pytest.raises(FileRefusedError) as caught:
            read(path, limit)
        assert caught.value.code == "MM746"


PARSERS = re.compile(
    r"json\.loads?\(|yaml\.(?:safe_)?load\(|yaml\.(?:compose|parse)\(|tomllib\.|pickle\.loads?|torch\.load\(|Image\.open\("
)
OWN = {
    "what mmbuild itself brings": (
        "checkpoint/accepted.py",
        "codes/__init__.py",
        "compat/drivers.py",
        "families/defaults.py",
        "models/generation_fields.py",
        "products/load.py",
        "quality/bounds.py",
        "schema/combinations.py",
        "sources/config.py",
        "toolchains/formats.py",
        "toolchains/load.py",
        "toolchains/memory.py",
    ),
    "what processes of one build say to each other": (
        "doctor/compiler.py",
        "execute/forkserver.py",
        "execute/job.py",
        "execute/workers.py",
        "ranks/__main__.py",
        "ranks/failures.py",
        "sources/places.py",
        "visual/tensorrt/child.py",
        "visual/tensorrt/program.py",
    ),
    "what was JSON a moment ago": (
        "base/bounded.py",
        "graph/parameters.py",
        "models/chat_template.py",
        "models/directory.py",
        "sources/check.py",
    ),
    "the note that pip leaves of an installation": ("base/install.py",),
    "checked by its own checksum": ("store/plan_cache.py",),
    "matched by a pattern of the whole line first": ("store/journal.py",),
    "the one parser of its kind, within limits": (
        "base/json_text.py",
        "base/yaml_text.py",
        "checkpoint/weights.py",
        "models/pictures.py",
        "schema/yamltext.py",
    ),
}
"""Modules that may call a parser themselves, by the reason."""


def test_nothing_else_parses_files() -> None:
    known = {name for names in OWN.values() for name in names}
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if PARSERS.search(re.sub(r"(?m)#.*$|``[^`]*``", "", path.read_text("utf-8")))
    }
    assert found - known == set()
