"""The Python API: ``load_recipe``, ``plan``, ``apply``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import Sink, nowhere
from mmbuild.core.execution.history_sink import record_history
from mmbuild.core.graph.plan import Plan

if TYPE_CHECKING:
    from mmbuild.core.execution.events import Result
    from mmbuild.core.execution.options import ApplyOptions
    from mmbuild.core.execution.resources import Capacity
    from mmbuild.core.graph.action import RecipeGraph
    from mmbuild.core.graph.remote_lookup import FindRemote, RemoteLookup
    from mmbuild.core.steps.registry import StepSpec
    from mmbuild.core.store.layout import Store
    from mmbuild.schema.resolved import ResolvedRecipe


class BuildError(MmbuildError):
    """At least one action failed; ``result`` tells all of them."""

    def __init__(self, result: Result) -> None:
        first = result.failed[0]
        self.result = result
        super().__init__(first.message, code=first.code, hint=first.hint or f"the log is `{first.log}`")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.result,))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> list[ResolvedRecipe]:
    """Read and validate a recipe: one result for each variant of its matrix.

    Args:
        path: The recipe file.
        overrides: ``dotted.key=value``, as ``--set`` takes them.

    Raises:
        RecipeError: it has errors; ``diagnostics`` holds all findings.
    """
    from mmbuild.base.diagnostics import RecipeError
    from mmbuild.pipeline.load import load_recipes

    loaded = load_recipes([Path(path)], overrides=tuple(overrides))
    if any(item.severity == "error" for item in loaded.diagnostics):
        raise RecipeError(loaded.diagnostics)
    return list(loaded.variants)


def plan(
    recipes: Sequence[ResolvedRecipe],
    *,
    store: str | Path | None = None,
    build_dir: str | Path = "build",
    target: Mapping[str, Any] | None = None,
) -> Plan:
    """Decide what an apply of ``recipes`` would do, and why.

    Args:
        recipes: From :func:`load_recipe`.
        store: Directory of the store; None means the default one.
        build_dir: Where the engine directories go.
        target: ``{"device", "sm", "isa"}`` for recipes that state none; None means this host.

    Raises:
        RecipeError: recipes ask for parts that are not built yet.
        MmbuildError: the store cannot be used, or a source cannot be identified.
    """
    from mmbuild.core.store.layout import open_store
    from mmbuild.pipeline.planning import lower_all

    opened = open_store(store)
    return plan_graphs(lower_all(tuple(recipes), opened, target=target), opened, build_dir)


def plan_graphs(
    graphs: Sequence[RecipeGraph],
    store: Store,
    build_dir: str | Path = "build",
    *,
    remote: FindRemote | None = None,
) -> Plan:
    """Decide what an apply of ``graphs`` would do; ``remote`` None means the shared store that is configured."""
    from mmbuild.core.graph.planner import make_plan
    from mmbuild.core.graph.rebuild_reasons import reasons_from
    from mmbuild.core.store.action_cache import load_cache

    def configured() -> RemoteLookup | None:
        from mmbuild.team.remote_cache.remote_cache import open_shared

        return open_shared(store)

    why, place = reasons_from(store), Path(build_dir).absolute()
    return make_plan(graphs, store, load_cache(store), place, why, remote or configured)


def apply(plan: Plan, options: ApplyOptions | None = None, *, sink: Sink = nowhere, **changes: Any) -> Result:
    """Do what ``plan`` says.

    Args:
        plan: From :func:`plan`.
        options: How; None means the defaults.
        sink: Called with each :class:`~mmbuild.core.execution.events.Event`.
        changes: Fields of :class:`~mmbuild.core.execution.options.ApplyOptions`, such as ``jobs=4``, which go before
            those of ``options``.

    Raises:
        BuildError: An action failed.
        MmbuildError: Nothing could start, or the disk is full.
        TypeError: A change is not a field of the options.
    """
    from mmbuild.core.execution.options import ApplyOptions

    result = run(plan, replace(options or ApplyOptions(), **changes), sink=sink)
    if not result.ok:
        raise BuildError(result)
    return result


@record_history
def run(plan: Plan, options: ApplyOptions | None = None, *, sink: Sink = nowhere) -> Result:
    """:func:`apply`, with failures of actions in the result instead of raised."""
    from mmbuild.core.execution.local import run_plan
    from mmbuild.core.execution.options import ApplyOptions, Options
    from mmbuild.pipeline.preflight import require_ready

    how = options or ApplyOptions()
    if plan.changes:
        from mmbuild.core.execution.repair import without_damage

        plan = without_damage(plan, sink, paranoid=how.paranoid)
    if how.executor == "ray":
        return _run_on_cluster(plan, how, sink)
    require_ready(plan)
    with _sharing(plan, sink) as (here, report):
        if here is not plan:  # something could not be pulled, and now runs
            require_ready(here)
        return run_plan(
            here, specs=_steps_of(here), options=Options(_capacity(here, how.jobs), how), sink=report
        )


def _run_on_cluster(plan: Plan, how: ApplyOptions, sink: Sink) -> Result:
    """:func:`run` with Ray. Environments of backends are not looked at: they are on the nodes."""
    from mmbuild.core.execution.local import run_plan
    from mmbuild.core.execution.options import Options
    from mmbuild.team.ray.executor import on_cluster

    with _sharing(plan, sink) as (here, report):
        specs = _steps_of(here)
        if all(
            planned.record is not None for planned in here.actions
        ):  # nothing is left to run: no Ray is started
            return run_plan(here, specs=specs, options=Options(_capacity(here, how.jobs), how), sink=report)
        with on_cluster(
            here, specs, report, address=how.address, jobs=how.jobs, ignore_estimates=how.ignore_estimates
        ) as cluster:
            options = Options(cluster.capacity, how)
            return run_plan(here, specs=specs, options=options, sink=report, executor=cluster)


def _steps_of(plan: Plan) -> Mapping[str, StepSpec]:
    """The steps of ``plan``: mmbuild's, and those that its backend adds."""
    from mmbuild.backends.table import step_table

    return step_table({planned.action.step for planned in plan.actions})


def _sharing(plan: Plan, sink: Sink) -> AbstractContextManager[tuple[Plan, Sink]]:
    """With the shared store, where there is one: see :func:`mmbuild.team.remote_cache.sync.sharing`."""
    if plan.remote is None:
        return nullcontext((plan, sink))
    from mmbuild.team.remote_cache.sync import sharing

    return sharing(plan, sink)


def _capacity(plan: Plan, jobs: int | None) -> Capacity:
    """What this machine has for ``plan``; its GPUs are asked for where an action wants one."""
    from mmbuild.base.gpu import least_memory, visible_gpus
    from mmbuild.core.execution.resources import Capacity, machine_cores, machine_memory

    cores = machine_cores()
    required = any(planned.record is None and planned.action.resources.gpus for planned in plan.actions)
    gpus = (visible_gpus() or ()) if required else ()
    uuids = tuple(gpu.uuid for gpu in gpus)
    return Capacity(cores, machine_memory(), uuids, max(1, jobs or cores), least_memory(gpus))
