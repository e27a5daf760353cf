"""Mends a fault of Inductor that now and then generates C++ that does not compile.

A wrapper declares each array of sizes once, ``int_array_120``, and remembers by an ``id`` to which list of lines it
wrote the declaration. In torch 2.11 that is the id of a bound method, which is gone after the call, so that another
list's method may have the same; in torch 2.13 it is that of the list, which may be gone too. Then the array is used
where nobody declared it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

Write = Callable[[str], None]


@contextmanager
def arrays_declared_where_used() -> Iterator[None]:
    """No two lists of lines that Inductor writes to meanwhile have the same identity."""
    declare = CppWrapperCpu.codegen_int_array_var
    writers: dict[tuple[int, str], Write] = {}

    def declare_with(self: CppWrapperCpu, array: str, write: Write, *rest: Any, **named: Any) -> str:
        # What is kept here is not freed, so its id is not used again; and one list has one method.
        key = id(getattr(write, "__self__", write)), getattr(write, "__name__", "")
        return declare(self, array, writers.setdefault(key, write), *rest, **named)

    with mock.patch.object(CppWrapperCpu, "codegen_int_array_var", declare_with):
        yield
