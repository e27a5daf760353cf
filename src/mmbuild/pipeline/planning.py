"""Turns recipe files and overrides into graphs, using the plan cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild._version import __version__
from mmbuild.base import host
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.serialize import graph_from_json, graph_to_json
from mmbuild.core.store.layout import Store
from mmbuild.core.store.plan_cache import cache_name, read_entry, write_entry
from mmbuild.core.store.stat_cache import StatCache
from mmbuild.pipeline.options import PlanOptions

if TYPE_CHECKING:
    from mmbuild.backends.base import PlanContext
    from mmbuild.schema.resolved import ResolvedRecipe

_ENVIRONMENT = re.compile(
    r"(MMBUILD_(?!STORE|FAULT|TEST|REMOTE|PUSH|SIGNING)|HF_(?!TOKEN)|HUGGINGFACE_|XDG_|HOME$|CUDA_VISIBLE).*"
)
"""Variables that loading or lowering may read; `~` in a path is HOME. Tokens affect no plan and are not stored."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Part of keys, in addition to the packages that are always checked.
_CALIBRATES = ("nvidia-modelopt",)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Validated and lowered recipes.

    Attributes:
        graphs: One graph per variant.
        derivations: Lines that show how each derived number is computed, by variant.
        running: What each variant's engine takes to run, by variant: a sentence, and the bytes that the host must
            have for it.
        warnings: Warnings, as text.
        cached: Whether it comes from the plan cache.
        entry: Name of its entry in the plan cache.
    """

    graphs: tuple[RecipeGraph, ...]
    derivations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    running: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    warnings: str = ""
    cached: bool = False
    entry: str = ""


def prepare(request: PlanOptions, store: Store, *, again: bool = False) -> Prepared:
    """Load, validate and lower recipes; from the plan cache if no input changed, unless ``again``.

    Locks are not read: :func:`mmbuild.team.lockfile.apply.prepare_locked` plans a request that is ``locked``.

    Raises:
        RecipeError: The recipes have errors, or use features that are not implemented yet.
        MmbuildError: A source cannot be identified.
    """
    name = cache_name(_facts(request))
    value = None if again else read_entry(store, name)
    if value is not None:
        try:
            return replace(_from_json(value), entry=name)
        except (KeyError, TypeError, AttributeError, ValueError):
            pass  # from another version or damaged: loaded again below
    return _load(request, store, name)


def _load(request: PlanOptions, store: Store, name: str) -> Prepared:
    from mmbuild.base.diagnostics import render_text
    from mmbuild.pipeline.load import load_valid

    loaded = load_valid(request)
    seen: dict[Path, None] = dict.fromkeys(loaded.files)
    graphs = lower_all(loaded.variants, store, seen, offline=request.offline)
    prepared = Prepared(
        graphs,
        {variant.name: derivation_lines(variant) for variant in loaded.variants},
        running_lines(loaded.variants),
        "\n".join(
            filter(
                None,
                (render_text(loaded.diagnostics) if loaded.diagnostics else "", calibration_note(graphs)),
            )
        ),
    )
    if all(_pinned(variant) for variant in loaded.variants):
        write_entry(store, name, seen, _to_json(prepared))
    return prepared


def lower_all(
    variants: tuple[ResolvedRecipe, ...],
    store: Store,
    seen: dict[Path, None] | None = None,
    *,
    target: Mapping[str, Any] | None = None,
    offline: bool = False,
    pins: Pins = NO_PINS,
    digests: dict[Path, str] | None = None,
) -> tuple[RecipeGraph, ...]:
    """Graphs of ``variants`` for ``target`` (None: this host), with the versions and commits of ``pins``.

    ``seen`` collects each hashed user file and its directory, whose times change when a file is added to a source.
    ``digests`` collects the digests of these files.

    Raises:
        RecipeError: A source of the hub cannot be identified; the finding has its place in the recipe.
        MmbuildError: Another source cannot be identified.
    """
    from mmbuild.backends.base import PlanContext
    from mmbuild.schema.explicit_values import explicit_values

    def digest(path: Path) -> str:
        if seen is not None:
            seen[path] = None
            seen[path.parent] = None
        value = index.digest(path)
        if digests is not None:
            digests[path] = value
        return value

    effective = host.default_target() if target is None else target
    if target is None and effective["sm"] is None:
        # The host's torch does not matter for TensorRT-LLM: it may be a CPU build on a machine with a GPU.
        from mmbuild.base import gpu

        effective = {**effective, "sm": gpu.first_sm()}
    with closing(StatCache(store)) as index:
        context = PlanContext(effective, digest, offline, pins)
        graphs = [_lower(variant, context) for variant in variants]
    return tuple(
        replace(
            graph,
            settings={} if variant.node is None else explicit_values(variant.node),
            file=os.path.relpath(os.path.normpath(variant.path.absolute()), variant.root),
        )
        for graph, variant in zip(graphs, variants, strict=True)
    )


def _lower(variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
    from mmbuild.backends.table import backend
    from mmbuild.models.errors import SourceError

    try:
        return backend(variant.recipe.engine.backend).lower(variant, context)
    except SourceError as error:
        if not error.blame or variant.node is None:
            raise
        from mmbuild.pipeline.unplanned_source import unplanned

        raise unplanned(variant.node, error) from error


def calibration_note(graphs: Iterable[RecipeGraph]) -> str:
    """Which variants are calibrated on generated pictures, as a line for the person; empty if none is."""
    names = [
        f"`{graph.recipe}`"
        for graph in graphs
        if any("prompts" in (action.params.get("calibration") or ()) for action in graph.actions)
    ]
    if not names:
        return ""
    return (
        f"note: no calibration data: {', '.join(names)} will be calibrated on generated pictures; for good answers "
        "name data with `engine.quantization.calibration`"
    )


def _facts(request: PlanOptions) -> dict[str, Any]:
    return {
        "mmbuild": __version__,
        "code": host.code_fingerprint(),
        "versions": host.installed_versions() | host.installed_versions(_CALIBRATES),
        "machine": host.fingerprint(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if _ENVIRONMENT.match(name)},
        "directory": os.getcwd(),
        "paths": [str(path) for path in request.paths],
        "overrides": list(request.overrides),
        "offline": request.offline,
        "allow_outside": request.allow_outside,
    }


def _pinned(variant: ResolvedRecipe) -> bool:
    """Whether the plan depends only on files and commits.

    A branch can move, and the packages of a toolchain's environment can change, without any file changing.
    """
    from mmbuild.backends.table import backend

    if not backend(variant.recipe.engine.backend).cacheable(variant):
        return False
    model, data = variant.recipe.model, variant.recipe.engine.quantization.calibration
    vision = model.vision
    sources = [
        (model.source, model.revision),
        *([(vision.source, vision.revision)] if vision is not None else []),
        *([(data.data, data.revision)] if data is not None else []),
    ]
    return all(
        _COMMIT.fullmatch(revision or "") for source, revision in sources if source.startswith("hf://")
    )


def derivation_lines(variant: ResolvedRecipe) -> tuple[str, ...]:
    """How each derived number of ``variant`` is computed, one line each."""
    return tuple(f"{item.name} = {item.value}: {item.arithmetic}" for item in variant.derivations)


def running_lines(variants: Iterable[ResolvedRecipe]) -> dict[str, tuple[str, int]]:
    """What the engine of each variant takes to run, by the variant's name; see :func:`memory_line`."""
    from mmbuild.backends.lowering.running_memory import memory_line

    on_cpu = host.default_target()["device"] == "cpu"
    return {variant.name: memory_line(variant, on_cpu=on_cpu) for variant in variants}


def _to_json(prepared: Prepared) -> dict[str, Any]:
    return {
        "graphs": [graph_to_json(graph) for graph in prepared.graphs],
        "derivations": {name: list(lines) for name, lines in prepared.derivations.items()},
        "running": dict(prepared.running),
        "warnings": prepared.warnings,
    }


def _from_json(value: Mapping[str, Any]) -> Prepared:
    return Prepared(
        tuple(graph_from_json(item) for item in value["graphs"]),
        {name: tuple(lines) for name, lines in value["derivations"].items()},
        {name: (sentence, on_host) for name, (sentence, on_host) in value["running"].items()},
        value["warnings"],
        cached=True,
    )
