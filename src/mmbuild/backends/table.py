"""The table of backends: built-in ones, and entry points of other distributions.

A distribution adds a backend with an entry point in the group ``mmbuild.backends``. Its name is the value of
``engine.backend``; its value is the ``module:OBJECT`` of a :class:`~mmbuild.backends.base.Backend`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mmbuild.base.entries import load_entry
from mmbuild.base.errors import MmbuildError
from mmbuild.core.steps.registry import StepSpec, steps
from mmbuild.schema.backend_names import BUILT_IN, added, names

if TYPE_CHECKING:
    from mmbuild.backends.base import Answering, Backend


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


def load_engine(build: Path) -> Answering:
    """The engine in directory ``build``, loaded by its backend to be compared with the original model.

    Its files are not checked against the manifest: the caller has done that, or a step took them from the store.

    Raises:
        LayoutError: ``build`` is not an engine directory.
        EngineError: The engine cannot be loaded here.
    """
    from mmbuild.backends.engine_dir import description

    described = description.read(build)
    return backend(described.backend).open(build, described, lambda _: None).load()


def step_table(used: Iterable[str]) -> Mapping[str, StepSpec]:
    """The active step table, extended by the steps of added backends if ``used`` names one missing from it."""
    table = steps()
    if all(name in table for name in used):
        return table
    return {**{name: spec for other in names() for name, spec in backend(other).steps.items()}, **table}
