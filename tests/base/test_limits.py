"""Limits: each refuses a text that exceeds it, and every parser of untrusted files has one."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import mmbuild
from mmbuild.base.files import FileRefusedError, read_file, read_json
from mmbuild.base.json_reader import JsonProblemError, parse_json
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
        "base/codes/__init__.py",
        "backends/compatibility.py",
        "models/families/defaults.py",
        "models/files/generation_fields.py",
        "evaluation/bounds.py",
        "schema/exclusive_settings.py",
        "models/sources/config.py",
        "backends/tensorrt_llm/toolchains/load.py",
        "backends/hf/consumers/load.py",
    ),
    "what processes of one build say to each other": (
        "inspect/doctor/compiler.py",
        "core/execution/forkserver.py",
        "core/execution/job.py",
        "core/execution/worker_pool.py",
        "backends/torch/distributed/__main__.py",
        "backends/torch/distributed/failures.py",
        "models/sources/allowed_places.py",
        "backends/tensorrt/child.py",
        "backends/tensorrt/program.py",
    ),
    "what was JSON a moment ago": (
        "base/sandbox.py",
        "backends/lowering/step_params.py",
        "backends/torch/package_cache.py",
        "models/files/chat_template.py",
        "models/files/template_worker.py",
        "models/validation/consistency.py",
        "models/validation/integrity.py",
    ),
    "the note that pip leaves of an installation": ("base/optional_packages.py",),
    "checked by its own checksum": ("core/store/plan_cache.py",),
    "matched by a pattern of the whole line first": ("core/store/action_cache.py",),
    "the one parser of its kind, within limits": (
        "base/json_reader.py",
        "base/yaml_reader.py",
        "models/checkpoint/hf_weights.py",
        "models/images.py",
        "base/yaml_parser.py",
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
