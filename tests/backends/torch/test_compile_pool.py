"""What is known of a package that cannot be compiled, whichever process found out."""

from functools import partial

import pytest

from mmbuild.backends.torch.aot_package import cpu_isa
from mmbuild.backends.torch.compile_pool import Packages, compile_all
from mmbuild.base.progress import silent
from mmbuild.models.errors import EngineError

TARGET = {"device": "cpu", "sm": None, "isa": cpu_isa()}


class UnsendableError(Exception):
    """As some errors of torch are: pickled, it cannot be read."""

    def __init__(self, _kind, message):
        super().__init__(message)


def fails(error):
    raise error


def compile_that_raises(error, cores, tmp_path, names=("head", "embed")):
    programs = dict.fromkeys(names, partial(fails, error))
    compile_all(Packages(programs, tmp_path, TARGET), cores, silent)


def test_an_error_that_cannot_be_sent_names_its_package_and_its_cause(tmp_path):
    with pytest.raises(RuntimeError, match=r"package `head`: UnsendableError: length is not static"):
        # Of two packages that fail at once either may be reported.
        compile_that_raises(UnsendableError("constraint", "length is not static"), 2, tmp_path, ["head"])


@pytest.mark.parametrize("cores", [1, 2])
def test_an_error_for_the_user_arrives_as_it_is(tmp_path, cores):
    with pytest.raises(EngineError, match="no such activation") as caught:
        compile_that_raises(
            EngineError("no such activation", code="MM502", hint="use another"), cores, tmp_path
        )
    assert (caught.value.code, caught.value.hint) == ("MM502", "use another")


def test_layers_take_longest_and_are_compiled_first(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(Packages, "compile", lambda _, name: order.append(name))
    names = ("layer_prefill", "embed", "layer_decode", "head", "layer_decode_batch", "head_batch")
    compile_all(Packages(dict.fromkeys(names, fails), tmp_path, TARGET), 1, silent)
    assert order == ["layer_prefill", "layer_decode", "layer_decode_batch", "embed", "head", "head_batch"]
