"""The table of backends: built-in ones, and entry points of other distributions.

A distribution adds a backend with an entry point in the group ``mmbuild.backends``. Its name is the value of
``engine.backend``; its value is the ``module:OBJECT`` of a :class:`~mmbuild.backends.base.Backend`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, cast

from mmbuild.base.entries import load_entry
from mmbuild.base.errors import MmbuildError
from mmbuild.core.steps.registry import StepSpec, steps
from mmbuild.schema.backend_names import BUILT_IN, added, names

if TYPE_CHECKING:
    from mmbuild.backends.base import Backend


@cache
def backend(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        MmbuildError: MM232, there is no such backend, or its module cannot be imported.
    """
    entry = BUILT_IN.get(name) or added().get(name)
    if entry is None:
        raise MmbuildError(
            f"unknown backend `{name}`",
            code="MM232",
            hint="install the distribution that provides it, or use one of " + ", ".join(names()),
        )
    try:
        return cast("Backend", load_entry(entry))
    except (ImportError, AttributeError) as error:
        raise MmbuildError(
            f"backend `{name}` (`{entry}`) cannot be loaded: {error}",
            code="MM232",
            hint="reinstall the distribution that provides it",
        ) from error


def step_table(used: Iterable[str]) -> Mapping[str, StepSpec]:
    """The active step table, extended by the steps of added backends if ``used`` names one missing from it."""
    table = steps()
    if all(name in table for name in used):
        return table
    return {**{name: spec for other in names() for name, spec in backend(other).steps.items()}, **table}
