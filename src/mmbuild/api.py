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
from mmbuild.core.execution.log_sink import record_logs
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
    """At least one action failed; ``result`` lists all of them."""

    def __init__(self, result: Result) -> None:
        first = result.failed[0]
        self.result = result
        super().__init__(first.message, code=first.code, hint=first.hint or f"the log is `{first.log}`")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.result,))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> list[ResolvedRecipe]:
    """Read and validate a recipe; returns one resolved recipe per variant of its matrix.

    Args:
        path: The recipe file.
        overrides: ``dotted.key=value``, as for ``--set``.

    Raises:
        RecipeError: The recipe has errors; ``diagnostics`` holds all findings.
        TypeError: ``overrides`` is one text instead of a list.
    """
    if isinstance(overrides, str):
        raise TypeError("overrides is a list of `dotted.key=value`, not one text")
    from mmbuild.pipeline.load import load_valid
    from mmbuild.pipeline.options import PlanOptions

    return list(load_valid(PlanOptions((Path(path),), tuple(overrides))).variants)


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
        store: Store directory; None means the default one.
        build_dir: Directory for the engine directories.
        target: ``{"device", "sm", "isa"}`` for recipes without a target; None means this host.

    Raises:
        RecipeError: Recipes use features that are not implemented yet.
        MmbuildError: The store cannot be used, or a source cannot be identified.
        ValueError: ``target`` has another form.
    """
    from mmbuild.core.store.layout import open_store
    from mmbuild.pipeline.planning import lower_all

    _check_target(target)
    opened = open_store(store)
    return plan_graphs(lower_all(tuple(recipes), opened, target=target), opened, build_dir)


def _check_target(target: Mapping[str, Any] | None) -> None:
    if target is None:
        return
    if target.get("device") not in ("cpu", "cuda") or not target.keys() <= {"device", "sm", "isa"}:
        raise ValueError(
            f"target is {{'device': 'cpu' or 'cuda', 'sm': ..., 'isa': ...}}, not {dict(target)}"
        )


def plan_graphs(
    graphs: Sequence[RecipeGraph],
    store: Store,
    build_dir: str | Path = "build",
    *,
    remote: FindRemote | None = None,
) -> Plan:
    """Decide what an apply of ``graphs`` would do; if ``remote`` is None, uses the configured shared store."""
    from mmbuild.core.graph.planner import make_plan
    from mmbuild.core.graph.rebuild_reasons import reasons_from
    from mmbuild.core.store.action_cache import load_cache

    def configured() -> RemoteLookup | None:
        from mmbuild.team.remote_cache.remote_cache import open_shared

        return open_shared(store)

    reasons, directory = reasons_from(store), Path(build_dir).absolute()
    return make_plan(graphs, store, load_cache(store), directory, reasons, remote or configured)


def apply(plan: Plan, options: ApplyOptions | None = None, *, sink: Sink = nowhere, **changes: Any) -> Result:
    """Apply ``plan``: build what is missing and install the engines.

    Args:
        plan: From :func:`plan`.
        options: How to apply it; None means the defaults.
        sink: Called with each :class:`~mmbuild.core.execution.events.Event`.
        changes: Fields of :class:`~mmbuild.core.execution.options.ApplyOptions`, such as ``jobs=4``, that override
            ``options``.

    Raises:
        BuildError: An action failed.
        MmbuildError: Nothing could be started, or the disk is full.
        TypeError: A name in ``changes`` is not a field of the options.
    """
    from mmbuild.core.execution.options import ApplyOptions

    result = run(plan, replace(options or ApplyOptions(), **changes), sink=sink)
    if not result.ok:
        raise BuildError(result)
    return result


@record_history
@record_logs
def run(plan: Plan, options: ApplyOptions | None = None, *, sink: Sink = nowhere) -> Result:
    """Like :func:`apply`, but returns failures of actions in the result instead of raising."""
    from mmbuild.core.execution.options import ApplyOptions, Options
    from mmbuild.core.execution.run_plan import run_plan
    from mmbuild.pipeline.preflight import require_ready

    options = options or ApplyOptions()
    if plan.changes:
        from mmbuild.core.execution.drop_damaged import without_damage

        plan = without_damage(plan, sink, paranoid=options.paranoid)
    if options.executor == "ray":
        return _run_on_cluster(plan, options, sink)
    require_ready(plan)
    with _sharing(plan, sink) as (local_plan, report):
        if local_plan is not plan:  # a failed pull means that an action runs here after all
            require_ready(local_plan)
        run_options = Options(_capacity(local_plan, options.jobs), options)
        return run_plan(local_plan, specs=_steps_of(local_plan), options=run_options, sink=report)


def _run_on_cluster(plan: Plan, options: ApplyOptions, sink: Sink) -> Result:
    """:func:`run` with Ray. Environments of backends are not checked here: they are on the nodes."""
    from mmbuild.core.execution.options import Options
    from mmbuild.core.execution.run_plan import run_plan
    from mmbuild.team.ray.executor import on_cluster

    with _sharing(plan, sink) as (local_plan, report):
        specs = _steps_of(local_plan)
        # Do not start Ray if nothing is left to run.
        if all(planned.record is not None for planned in local_plan.actions):
            run_options = Options(_capacity(local_plan, options.jobs), options)
            return run_plan(local_plan, specs=specs, options=run_options, sink=report)
        with on_cluster(
            local_plan,
            specs,
            report,
            address=options.address,
            jobs=options.jobs,
            ignore_estimates=options.ignore_estimates,
        ) as cluster:
            run_options = Options(cluster.capacity, options)
            return run_plan(local_plan, specs=specs, options=run_options, sink=report, executor=cluster)


def _steps_of(plan: Plan) -> Mapping[str, StepSpec]:
    """The steps of ``plan``: those of mmbuild and those added by its backends."""
    from mmbuild.backends.table import step_table

    return step_table({planned.action.step for planned in plan.actions})


def _sharing(plan: Plan, sink: Sink) -> AbstractContextManager[tuple[Plan, Sink]]:
    """Use the shared store if the plan has one: see :func:`mmbuild.team.remote_cache.sync.sharing`."""
    if plan.remote is None:
        return nullcontext((plan, sink))
    from mmbuild.team.remote_cache.sync import sharing

    return sharing(plan, sink)


def _capacity(plan: Plan, jobs: int | None) -> Capacity:
    """Resources of this machine for ``plan``; GPUs are only queried if an action needs one."""
    from mmbuild.base.gpu import least_memory, visible_gpus
    from mmbuild.core.execution.resources import Capacity, machine_cores, machine_memory

    cores = machine_cores()
    required = any(planned.record is None and planned.action.resources.gpus for planned in plan.actions)
    gpus = (visible_gpus() or ()) if required else ()
    uuids = tuple(gpu.uuid for gpu in gpus)
    return Capacity(cores, machine_memory(), uuids, max(1, jobs or cores), least_memory(gpus))
