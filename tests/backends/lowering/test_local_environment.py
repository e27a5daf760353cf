"""The parts of mmbuild's own environment that plans depend on."""

import pytest

from mmbuild.backends.lowering import local_environment
from support.errors import refused


@pytest.fixture
def torch_is(monkeypatch):
    """Returns a function that sets the torch version that plans see."""

    def change(version):
        monkeypatch.setattr(local_environment, "_installed", {"torch": version}.__getitem__)

    return change


@pytest.mark.parametrize(
    ("version", "device", "floor"),
    [("2.11.0+cu130", "cpu", "2.13"), ("2.12.1", "cpu", "2.13"), ("2.10.0+cu128", "cuda", "2.11")],
)
def test_planning_refuses_a_torch_too_old_for_the_device(torch_is, version, device, floor):
    torch_is(version)
    error = refused(local_environment.LowerError, "MM231", local_environment.compiler, {"device": device})
    assert f"torch {version} is too old" in error.message
    assert f"torch>={floor}" in error.hint


@pytest.mark.parametrize(
    ("version", "device"), [("2.13.0+cpu", "cpu"), ("2.13.0+cu130", "cpu"), ("2.11.0+cu130", "cuda")]
)
def test_a_supported_torch_is_recorded_in_the_plan(torch_is, version, device):
    torch_is(version)
    assert local_environment.compiler({"device": device}) == version
