"""The result of ``mmbuild bench`` as a JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmbuild._version import __version__
from mmbuild.base import host
from mmbuild.base.documents import Kind
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import (
    Check,
    any_value,
    flag,
    integer,
    list_of,
    mapping_of,
    number,
    one_of,
    optional,
    record,
    text,
    word,
)
from mmbuild.base.gpu import visible_gpus
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.serving.bench.load import KINDS, Extent, Load
from mmbuild.serving.bench.measured import Run
from mmbuild.serving.bench.metrics import PERCENTILES, TIMES, summary
from mmbuild.serving.bench.records import FAILURES
from mmbuild.serving.bench.workload import Workload

FORMAT, VERSION = "mmbuild-bench", 1
_DIGITS = 7
"""Decimal places of seconds: a tenth of a microsecond."""

_MANY, _LONG = 1_000_000, 1e9
_TIME = number(-_LONG, _LONG)
_STATISTICS = record(dict.fromkeys(("mean", *(f"p{percent}" for percent in PERCENTILES)), _TIME))
_FAILURE: Mapping[str, Check] = {
    "kind": one_of(*FAILURES),
    "status": optional(integer(0, 999)),
    "code": optional(text(64)),
    "message": text(1_000),
}
_SUMMARY = record(
    {
        **dict.fromkeys(("seconds", "late"), _TIME),
        **dict.fromkeys(("completed", "failed", "tokens"), integer(0, 10**12)),
        **dict.fromkeys(("requests_per_second", "tokens_per_second"), number(0, 1e15)),
        "counted": list_of(word, 10),
        **dict.fromkeys(TIMES, optional(_STATISTICS)),
        "failures": list_of(record({**_FAILURE, "count": integer(1, _MANY)}), 1_000),
    },
    closed=False,
)
_REQUEST = record(
    {
        **dict.fromkeys(("due", "sent", "ended"), _TIME),
        **dict.fromkeys(("first", "last"), optional(_TIME)),
        "tokens": integer(0, 10**9),
        "counted": word,
        "prompt_tokens": optional(integer(0, 10**9)),
        "failure": optional(record(_FAILURE)),
    },
)
_WORKLOAD = record(
    {
        "images": list_of(text(4_000), _MANY),
        "image_size": integer(1, _MANY),
        "prompts": list_of(text(_MANY), _MANY),
        "max_tokens": integer(1, _MANY),
        "ignore_eos": flag,
        "seed": integer(0, 2**63),
    },
    closed=False,
)
_LOAD = record({"kind": one_of(*KINDS), "value": number(0, 1e9)})
_RUN = record(
    {
        "load": _LOAD,
        "distinct_questions": integer(0, _MANY),
        "client_cpu": optional(number(0, 1_000)),
        "summary": _SUMMARY,
        "requests": list_of(_REQUEST, _MANY),
    },
    closed=False,
)
_TARGET = record(
    {
        "kind": one_of("engine", "server"),
        "name": word,
        "recipe": optional(word),
        "versions": mapping_of(word, 100),
        "bytes": mapping_of(integer(0, 2**63), 100),
    },
    may_lack=("recipe", "versions", "bytes"),
    closed=False,
)
_DOCUMENT = record(
    {
        "mmbuild": word,
        "date": word,
        "host": mapping_of(any_value, 100),
        "target": _TARGET,
        "workload": _WORKLOAD,
        "missing": list_of(_LOAD, 1_000),
        "runs": list_of(_RUN, 1_000, least=1),
    },
    may_lack=("missing",),
    closed=False,
)


class ResultError(MmbuildError):
    """A file is not a result of this version of bench (MM865)."""


def document(
    target: Mapping[str, Any],
    workload: Workload,
    extent: Extent,
    runs: Iterable[Run],
    when: datetime,
    missing: Iterable[Load] = (),
) -> dict[str, Any]:
    """The document: everything that is needed to repeat a sweep and to compute its numbers again.

    Returns:
        ``format``, ``version``, ``mmbuild`` (its version), ``date`` (UTC), ``host``
        (:func:`mmbuild.base.host.facts`, and ``gpus``), ``target``, ``workload``, ``extent``, ``missing`` (loads that
        were not measured, because the sweep ended early) and ``runs``. Each run
        has ``load``, ``distinct_questions``, ``client_cpu``, ``summary``
        (:func:`~mmbuild.serving.bench.metrics.summary`) and ``requests``, the fields of
        :class:`~mmbuild.serving.bench.records.Record`. All times are in seconds.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "mmbuild": __version__,
        "date": when.astimezone(UTC).isoformat(timespec="seconds"),
        "host": {**host.facts(), "gpus": [gpu.name for gpu in visible_gpus() or ()]},
        "target": dict(target),
        "workload": asdict(workload),
        "extent": asdict(extent),
        "missing": [asdict(one) for one in missing],
        "runs": [_run(run) for run in runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "load": asdict(run.load),
        "distinct_questions": run.distinct_questions,
        "client_cpu": _rounded(run.client_cpu),
        "summary": _rounded(summary(run.records)),
        "requests": [_rounded(asdict(one)) for one in run.records],
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def load(run: Mapping[str, Any]) -> Load:
    """The load of a run of a document."""
    return Load(**run["load"])


def as_text(result: Mapping[str, Any]) -> str:
    """The document as JSON, one line per request."""
    parts = []
    for run in result["runs"]:
        rest = {name: value for name, value in run.items() if name != "requests"}
        lines = ",\n    ".join(json.dumps(one, ensure_ascii=False) for one in run["requests"])
        parts.append(f'{json.dumps(rest, ensure_ascii=False)[:-1]},\n   "requests": [\n    {lines}\n   ]}}')
    head = {name: value for name, value in result.items() if name != "runs"}
    start = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{start},\n "runs": [\n  {("," + chr(10) + "  ").join(parts)}\n ]\n}}\n'


def read(path: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        ResultError: MM865, it is not one, is damaged, or has another version.
    """
    return Kind(FORMAT, VERSION, "mmbuild bench", _DOCUMENT, MEASUREMENTS, _unreadable).read(path)


def _unreadable(problem: str) -> ResultError:
    return ResultError(
        problem,
        code="MM865",
        hint="measure again with `mmbuild bench -o FILE`, or name a build",
    )
