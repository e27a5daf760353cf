"""A sweep keeps the runs that are complete when it ends early."""

from __future__ import annotations

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.serving.bench.document import as_text, read
from mmbuild.serving.bench.load import Load
from mmbuild.serving.bench.records import Failure
from mmbuild.serving.bench.rows import notes
from mmbuild.serving.bench.sweep import EndedEarlyError, collect
from support.errors import refused
from support.measured import BUSY, answered, failed, result, run

LOADS = [Load("clients", value) for value in (1, 2, 4)]
GONE = Failure("connect", message="refused")


def runs(*records):
    return [run("clients", load.value, own) for load, own in zip(LOADS, records, strict=False)]


def test_all_runs() -> None:
    given = runs([answered()], [answered(), failed()], [failed(BUSY, 9.0)])
    found = collect(iter(given), LOADS)
    assert (found.runs, found.missing, found.problem) == (tuple(given), (), None)


def interrupted(given, error):
    yield from given
    raise error


def test_ctrl_c_keeps_what_is_complete() -> None:
    given = runs([answered()])
    found = collect(interrupted(given, KeyboardInterrupt()), LOADS)
    assert (found.runs, found.missing) == (tuple(given), tuple(LOADS[1:]))
    assert isinstance(found.problem, EndedEarlyError)
    assert "it was interrupted; not measured: 2 at once, 4 at once" in found.problem.message


def test_an_error_keeps_what_is_complete_and_is_the_reason() -> None:
    error = MmbuildError("the engine failed", code="MM727")
    found = collect(interrupted(runs([answered()], [answered()]), error), LOADS)
    assert (len(found.runs), found.missing, found.problem) == (2, (LOADS[2],), error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MmbuildError("no engine", code="MM727")])
def test_without_a_complete_run_there_is_no_result(error) -> None:
    with pytest.raises(type(error)) as raised:
        collect(interrupted([], error), LOADS)
    assert raised.value is error


def test_a_server_that_is_gone_is_not_asked_again() -> None:
    given = runs([answered(), failed(GONE, 5.0)], [answered()])
    found = collect(iter(given), LOADS)
    assert (found.runs, found.missing) == ((given[0],), tuple(LOADS[1:]))
    assert found.problem is not None
    assert found.problem.code == "MM866"


def test_a_server_that_came_back_is_asked_on() -> None:
    given = runs([failed(GONE, 0.0), answered(5.0)], [answered()], [failed(GONE)])
    assert collect(iter(given), LOADS).problem is None, "after the last run nothing is missing"


def test_the_result_names_what_is_missing(tmp_path) -> None:
    found = result(*runs([answered()]), missing=LOADS[1:])
    (tmp_path / "a.json").write_text(as_text(found))
    assert read(tmp_path / "a.json")["missing"] == [
        {"kind": "clients", "value": 2},
        {"kind": "clients", "value": 4},
    ]
    assert notes(found)[-1] == "2 at once, 4 at once: not measured, the sweep ended early"
    assert "not measured" not in "".join(notes(result(*runs([answered()]))))


def test_the_error_is_explained() -> None:
    def raised():
        raise collect(interrupted(runs([answered()]), KeyboardInterrupt()), LOADS).problem

    refused(EndedEarlyError, "MM866", raised)
