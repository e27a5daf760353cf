"""Suppressing output of libraries."""

import os
import warnings

import pytest

from mmbuild.base.silence import quiet


def test_what_a_library_writes_past_python_is_lost(capfd):
    with quiet(native=True):
        os.write(2, b"ZIPDecode: incorrect header check")
        warnings.warn("odd", stacklevel=1)
    os.write(2, b"ours")
    assert capfd.readouterr().err == "ours"


def test_without_it_python_alone_is_silent(capfd):
    with quiet():
        warnings.warn("odd", stacklevel=1)
        os.write(2, b"native")
    assert capfd.readouterr().err == "native"


def test_standard_error_is_back_after_a_failure(capfd):
    with pytest.raises(ZeroDivisionError), quiet(native=True):
        raise ZeroDivisionError
    os.write(2, b"ours")
    assert capfd.readouterr().err == "ours"
