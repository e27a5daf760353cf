"""An apply notes which action wrote which log."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.core.execution.events import Event, EventKind, Result
from mmbuild.core.execution.log_sink import record_logs
from mmbuild.core.graph.plan import Plan
from mmbuild.core.store.action_logs import index_path, read_runs
from mmbuild.core.store.layout import open_store


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan((), (), open_store(tmp_path / "store"))


def start(label: str, key: str) -> Event:
    return Event(EventKind.STARTED, label, {"log": f"/store/logs/{key * 64}.log"}, 10.0)


def end(kind: EventKind, label: str) -> Event:
    return Event(kind, label, {}, 12.0)


def test_starts_and_ends_are_noted_and_passed_on(plan: Plan) -> None:
    seen: list[Event] = []
    events = [
        start("v/a", "1"),
        start("v/b", "2"),
        end(EventKind.FINISHED, "v/a"),
        end(EventKind.FAILED, "v/b"),
        end(EventKind.REUSED, "v/c"),
    ]

    @record_logs
    def apply(_: Plan, jobs: int, *, sink) -> Result:
        assert jobs == 2
        for event in events:
            sink(event)
        return Result()

    assert apply(plan, 2, sink=seen.append) == Result()
    assert seen == events
    found = [(run.label, run.key, run.status, run.seconds) for run in read_runs(plan.store)]
    assert found == [("v/a", "1" * 64, "done", 2.0), ("v/b", "2" * 64, "failed", 2.0)]


def test_what_still_ran_at_an_interruption_is_interrupted(plan: Plan) -> None:
    @record_logs
    def apply(_: Plan, *, sink) -> Result:
        sink(start("v/a", "1"))
        assert [run.status for run in read_runs(plan.store)] == ["running"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(plan)
    assert [run.status for run in read_runs(plan.store)] == ["interrupted"]


def test_each_apply_has_its_own_name(plan: Plan) -> None:
    @record_logs
    def apply(_: Plan, *, sink) -> Result:
        sink(start("v/a", "1"))
        return Result()

    apply(plan)
    apply(plan)
    assert len({run.apply for run in read_runs(plan.store)}) == 2


def test_an_index_that_cannot_be_written_does_not_fail_the_apply(plan: Plan) -> None:
    index_path(plan.store).mkdir()

    @record_logs
    def apply(_: Plan, *, sink) -> Result:
        sink(start("v/a", "1"))
        return Result(ran=("v/a",))

    assert apply(plan).ran == ("v/a",)
