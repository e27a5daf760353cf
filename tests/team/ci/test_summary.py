"""The job summary: a row for each engine, from what its directory and the events of apply say."""

from __future__ import annotations

import json

from mmbuild.api import plan_graphs
from mmbuild.backends.engine_dir import description
from mmbuild.core.execution.events import Event, EventKind, Result
from mmbuild.core.execution.failures import Failed
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import make_action
from mmbuild.core.store.layout import open_store
from mmbuild.evaluation.bounds import bounds
from mmbuild.steps import verify
from mmbuild.team.ci.summary import EventStats, append_summary, summary
from support import reports


def engine(directory):
    """A directory that says what an engine of 3,000,000 bytes of int4 weights says; one of two gates passed."""
    (directory / "llm").mkdir(parents=True)
    (directory / "verify").mkdir()
    llm = {"tensor_parallel": 1, "dtype": "float32", "quant_algo": "W4A16"}
    target = {"device": "cpu", "sm": None, "isa": "avx2"}
    description.write(directory, description.Description("llava", "torch", llm, {}, target, {}, None, ()))
    (directory / "llm" / "rank0.safetensors").write_bytes(bytes(3_000_000))
    (directory / "manifest.json").write_text(json.dumps({"actions": []}))
    report = verify.report_of(reports.measures((0.2, 0.4)), bounds("int4", {}), "model", None)
    verify.write(report, {}, directory / "verify" / "report.json", recipe="one")


def plan(tmp_path, *names):
    shared = make_action(label=f"{names[0]}/convert", step="convert", version="1", params={})
    graphs = []
    for name in names:
        own = make_action(
            label=f"{name}/assemble",
            step="assemble",
            version="1",
            params={"name": name},
            inputs={"checkpoint": shared.definition_key},
        )
        graphs.append(RecipeGraph(name, (shared, own), own.definition_key))
    return plan_graphs(graphs, open_store(tmp_path / "store"), tmp_path / "build")


def heard(*events):
    tally, passed = EventStats(), []
    for event in events:
        tally.watching(passed.append)(event)
    assert passed == list(events)
    return tally


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_engine_has_its_precision_size_counts_and_gates(tmp_path):
    found = plan(tmp_path, "one", "other")
    engine(tmp_path / "build" / "one")
    tally = heard(
        Event(EventKind.PULLED, "one/convert", {"why": "", "seconds": 1}),
        Event(EventKind.FINISHED, "one/assemble", {"seconds": 100.0}),
        Event(EventKind.PULLED, "other/assemble", {"why": "it was damaged"}),
    )
    text = summary(found, tally, Result(ran=("one/assemble",)))
    assert text.startswith("### mmbuild: 1 built, 1 pulled\n")
    assert rows(text)[-2:] == [
        ["`one`", "float32 W4A16", "3.0 MB", "1", "1", "0", "2 min", "1 of 2"],
        ["`other`", "", "", "0", "1", "1", "", ""],
    ]


def test_what_failed_is_in_its_row_and_reported_below(tmp_path):
    found = plan(tmp_path, "one")
    engine(tmp_path / "build" / "one")  # from an earlier apply: not requested
    failed = Failed("one/assemble", "it broke\nbadly", "MM310", None, (), "log")
    text = summary(found, heard(), Result(failed=(failed,)))
    assert rows(text)[-1] == ["`one`", "", "", "0", "0", "", "", "failed: assemble"]
    assert text.endswith("\n- `one/assemble` MM310: it broke badly\n\n")


def test_a_job_without_engines_has_its_counts_alone(tmp_path):
    shared = make_action(label="one/convert", step="convert", version="1", params={})
    graphs = [RecipeGraph("shared-one", (shared,), "")]
    found = plan_graphs(graphs, open_store(tmp_path / "store"), tmp_path / "build")
    text = summary(found, heard(), Result(ran=("one/convert",)))
    assert text.strip() == "### mmbuild: 1 built, 0 pulled"


def test_summaries_are_added_and_stay_within_what_github_takes(tmp_path, monkeypatch):
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    assert append_summary("# one\n")
    assert append_summary("# two\n" + "x" * (1 << 20))
    assert path.read_text() == "# one\n# two\n"
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert not append_summary("# three\n")
    assert "three" not in path.read_text()
