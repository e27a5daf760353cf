"""Arrays of sizes in generated C++ are declared in the list of lines that uses them."""

import itertools
import re

from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

from mmbuild.backends.torch.inductor_fix import arrays_declared_where_used


class Lines:
    """A list of lines, as wrappers have several."""

    def __init__(self):
        self.lines = []

    def writeline(self, line):
        self.lines.append(line)


def wrapper():
    """What the method reads of a wrapper."""
    made = CppWrapperCpu.__new__(CppWrapperCpu)
    made.int_array_id = itertools.count()
    made.codegen_int_array_var_cache = {}
    made.declared_int_array_vars = set()
    return made


def undeclared(rounds=200):
    """Uses of an array, in lists that live one after the other, that their list does not declare."""
    generator, missing = wrapper(), 0
    for _ in range(rounds):
        lines = Lines()
        name = generator.codegen_int_array_var("{1L, 2L}", lines.writeline, known_statically=True)
        missing += not any(re.search(rf"\b{name}\b", line) for line in lines.lines)
        del lines
    return missing


def test_inductor_itself_loses_declarations():
    """If this fails, the installed torch needs the fix no more."""
    assert undeclared() > 0


def test_every_list_declares_what_it_uses():
    with arrays_declared_where_used():
        assert undeclared() == 0


def test_an_array_is_declared_once_in_a_list():
    generator, lines = wrapper(), Lines()
    with arrays_declared_where_used():
        names = {generator.codegen_int_array_var("{3L}", lines.writeline) for _ in range(5)}
    assert len(names) == len(lines.lines) == 1
