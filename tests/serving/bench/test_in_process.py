"""An engine measured in this process."""

import dataclasses
from types import SimpleNamespace

import pytest

from mmbuild.backends.engine_dir import description as layout
from mmbuild.base.errors import UsageError
from mmbuild.serving.bench import in_process
from mmbuild.serving.bench.in_process import (
    CannotMeasureError,
    measure,
    require_limits,
    require_measurable,
    target_of,
)
from mmbuild.serving.bench.load import Extent, Load
from mmbuild.serving.bench.metrics import per_token, summary
from mmbuild.serving.bench.workload import Workload
from support.engines.loaded import demo_directory, demo_engine
from support.errors import refused

WORKLOAD = Workload((), 32, ("how many ?",), 5, True, 0)


def sweep(monkeypatch, loads, extent, workload=WORKLOAD):
    """Runs of the demo engine, which is loaded once for all tests."""
    from mmbuild.backends.torch import Engine

    engine = demo_engine()
    monkeypatch.setattr(Engine, "load", lambda *_, **__: engine)
    return list(measure(demo_directory(), loads, extent, workload, lambda _: None))


@pytest.mark.slow
def test_batches_of_an_engine(monkeypatch):
    loads = [Load("batch", 1), Load("batch", 4)]
    alone, four = sweep(monkeypatch, loads, Extent(6))
    assert (len(alone.records), len(four.records)) == (6, 8)
    for record in (*alone.records, *four.records):
        assert (record.tokens, record.counted, record.failure) == (5, "engine", None)
        assert record.due <= record.sent < record.first < record.last == record.ended
        assert per_token(record) > 0
    assert len({record.sent for record in four.records}) == 2
    engine = demo_engine()
    features = engine.visual.config.num_visual_features
    assert all(record.prompt_tokens > features for record in four.records)


@pytest.mark.slow
def test_arrivals_at_an_engine(monkeypatch):
    (run,) = sweep(monkeypatch, [Load("rate", 200)], Extent(12))
    found = summary(run.records)
    assert (found["completed"], found["tokens"]) == (12, 60)
    assert found["requests_per_second"] > 0


@pytest.mark.slow
def test_answers_end_at_an_end_token_and_count_it(monkeypatch):
    """The demo model answers `how many ?` with one word."""
    (run,) = sweep(
        monkeypatch, [Load("batch", 2)], Extent(2), dataclasses.replace(WORKLOAD, ignore_eos=False)
    )
    assert [record.tokens for record in run.records] == [2, 2]


@pytest.mark.slow
def test_the_target_describes_the_engine():
    found = target_of(demo_directory(), layout.read(demo_directory()))
    assert (found["kind"], found["family"], found["dtype"], found["max_batch_size"]) == (
        "engine",
        "llava",
        "float32",
        4,
    )
    assert found["device"].startswith("cpu")


def test_other_engines_are_refused(tmp_path):
    description = SimpleNamespace(backend="tensorrt-llm", llm={})
    error = refused(CannotMeasureError, "MM862", require_measurable, tmp_path, description)
    assert "backend tensorrt-llm" in error.message


def test_batches_beyond_the_engine_are_refused():
    config = SimpleNamespace(max_batch_size=4)
    require_limits(config, [Load("batch", 4), Load("rate", 100)])
    error = refused(UsageError, "MM860", require_limits, config, [Load("batch", 8)])
    assert "batches of 8" in error.message


def test_warm_up_answers_every_size_once():
    sizes = []
    target = SimpleNamespace(most=3, _warm=set(), answer=lambda numbers: sizes.append(len(numbers)))
    for load in (Load("batch", 2), Load("rate", 1), Load("rate", 2)):
        in_process.EngineTarget.warm_up(target, load, 2)
    assert sizes == [2, 2, 1, 1, 3, 3]
