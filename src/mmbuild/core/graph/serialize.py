"""Converts graphs and plans to JSON: for the plan cache, and the versioned format that ``plan --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmbuild._version import __version__
from mmbuild.core.graph.action import Action, RecipeGraph, Resources
from mmbuild.core.graph.plan import Build, Plan, PlannedAction

PLAN_SCHEMA = 1
"""Version of the printed and saved format; increased when a field is removed or changes its meaning."""

_RESOURCES = ("cores", "memory", "disk", "gpus", "gpu_memory", "seconds", "gpu_shared", "download")


def graph_to_json(graph: RecipeGraph) -> dict[str, Any]:
    """Return a graph as plain data, readable by :func:`graph_from_json`."""
    return {
        "recipe": graph.recipe,
        "engine": graph.engine,
        "settings": _plain(graph.settings),
        "file": graph.file,
        "actions": [_action_to_json(action) for action in graph.actions],
    }


def graph_from_json(data: Mapping[str, Any]) -> RecipeGraph:
    """Read the output of :func:`graph_to_json`. Keys are not recomputed.

    Raises:
        KeyError, TypeError: The data is damaged.
    """
    actions = tuple(
        Action(**{**item, "resources": Resources(*item["resources"])}) for item in data["actions"]
    )
    return RecipeGraph(data["recipe"], actions, data["engine"], data["settings"], data["file"])


def plan_to_json(
    plan: Plan, request: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The versioned form, and ``more`` fields.

    ``{"schema", "kind": "plan", "mmbuild", "hash", "request", "builds": [{"recipe", "directory", "targets",
    "recipe_file", "replaces"}], "actions": [{"label", "step", "recipes", "verdict", "reason", "definition_key",
    "artifact", "inputs", "params", "target", "toolchain", "sources", "resources"}]}``
    """
    return {
        "schema": PLAN_SCHEMA,
        "kind": "plan",
        "mmbuild": __version__,
        "hash": plan.hash,
        "request": dict(request),
        "builds": [_build_to_json(build) for build in plan.builds],
        "actions": [_planned_to_json(planned) for planned in plan.actions],
        **(more or {}),
    }


def _action_to_json(action: Action) -> dict[str, Any]:
    return {
        "label": action.label,
        "step": action.step,
        "version": action.version,
        "params": _plain(action.params),
        "definition_key": action.definition_key,
        "target": _plain(action.target),
        "toolchain": dict(action.toolchain),
        "inputs": dict(action.inputs),
        "sources": dict(action.sources),
        "locators": dict(action.locators),
        "resources": [getattr(action.resources, name) for name in _RESOURCES],
    }


def _planned_to_json(planned: PlannedAction) -> dict[str, Any]:
    action = planned.action
    return {
        "label": action.label,
        "step": action.step,
        "recipes": list(planned.recipes),
        "verdict": str(planned.verdict),
        "reason": planned.reason,
        "definition_key": action.definition_key,
        "artifact": planned.record.digest if planned.record else None,
        "inputs": dict(action.inputs),
        "params": _plain(action.params),
        "target": _plain(action.target),
        "toolchain": dict(action.toolchain),
        "sources": dict(action.sources),
        "resources": asdict(action.resources),
    }


def _build_to_json(build: Build) -> dict[str, Any]:
    return {
        "recipe": build.recipe,
        "directory": str(build.directory),
        "targets": dict(build.targets),
        "recipe_file": build.file,
        "replaces": build.replaces or None,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
