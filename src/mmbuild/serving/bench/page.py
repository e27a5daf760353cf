"""Renders a result as one HTML page: everything inline, no scripts, no requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmbuild.base.templates import render
from mmbuild.evaluation.page_facts import sizes_text, versions_text
from mmbuild.evaluation.verdict import Verdict
from mmbuild.serving.bench.curves import charts
from mmbuild.serving.bench.rows import (
    COLUMNS,
    PERCENTILE_TITLE,
    PERCENTILES_FROM,
    failure_lines,
    notes,
    row_of,
)


def page(result: Mapping[str, Any]) -> str:
    """The page of a document."""
    name = result["target"]["name"]
    values = {
        "title": f"Benchmark: {name}",
        "facts": list(facts(result)),
        "verdict": verdict(result),
        "columns": COLUMNS,
        "percentiles": PERCENTILE_TITLE,
        "percentiles_from": PERCENTILES_FROM,
        "rows": [row_of(name, run).cells for run in result["runs"]],
        "charts": charts(result),
        "failures": failure_lines(result),
        "notes": notes(result),
    }
    return render("mmbuild.serving.bench", "bench.html.j2", values, tick=_tick)


def facts(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of what was measured, how and where."""
    target, workload, machine = result["target"], result["workload"], result["host"]
    yield "target", _target(target)
    if target.get("recipe"):
        yield "recipe", target["recipe"]
    if target.get("bytes"):
        yield "size", sizes_text(target["bytes"])
    yield "versions", versions_text({**target.get("versions", {}), "mmbuild": result["mmbuild"]})
    pictures = (
        ", ".join(workload["images"]) or f"drawn, {workload['image_size']} x {workload['image_size']} pixels"
    )
    yield "pictures", pictures
    yield "prompts", " | ".join(workload["prompts"]) or "none"
    most = workload["max_tokens"]
    yield (
        "tokens of an answer",
        f"{most}: end tokens are ignored" if workload["ignore_eos"] else f"at most {most}",
    )
    gpus = "".join(f", {name}" for name in machine.get("gpus", ()))
    name, cpu = machine.get("name", "unknown host"), machine.get("cpu", "unknown CPU")
    yield "measured on", f"{name}: {cpu}, {machine.get('cores', '?')} cores{gpus}"
    yield "measured at", f"{result['date']}, seed {workload['seed']}"


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Whether every request of every run was answered."""
    failed = sum(run["summary"]["failed"] for run in result["runs"])
    count = failed + sum(run["summary"]["completed"] for run in result["runs"])
    if failed:
        return Verdict(False, f"{failed:,} of {count:,} requests failed")
    return Verdict(True, f"all {count:,} requests were answered")


def _target(target: Mapping[str, Any]) -> str:
    names = (
        ("url", "model", "version")
        if target["kind"] == "server"
        else ("path", "dtype", "quant_algo", "device")
    )
    known = [str(target[name]) for name in names if target.get(name)]
    return f"{'server' if target['kind'] == 'server' else 'engine in process'}: {', '.join(known)}"


def _tick(value: float) -> str:
    return f"{value:.6g}"
