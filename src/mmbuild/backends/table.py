"""The backends: a row for each that is built in, and entry points of other distributions.

A distribution adds a backend with an entry point of the group ``mmbuild.backends``, whose name is what
``engine.backend`` says and whose value is the ``module:OBJECT`` of a :class:`~mmbuild.backends.base.Backend`.
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
        MmbuildError: MM232, there is none, or its module cannot be imported.
    """
    entry = BUILT_IN.get(name) or added().get(name)
    if entry is None:
        raise MmbuildError(
            f"no backend is called `{name}`",
            code="MM232",
            hint="install the distribution that has it, or use one of " + ", ".join(names()),
        )
    try:
        return cast("Backend", load_entry(entry))
    except (ImportError, AttributeError) as error:
        raise MmbuildError(
            f"backend `{name}` (`{entry}`) cannot be loaded: {error}",
            code="MM232",
            hint="reinstall the distribution that has it",
        ) from error


def step_table(used: Iterable[str]) -> Mapping[str, StepSpec]:
    """The steps in force, with those of added backends where ``used`` has a step that the table lacks."""
    table = steps()
    if all(name in table for name in used):
        return table
    return {**{name: spec for other in names() for name, spec in backend(other).steps.items()}, **table}
