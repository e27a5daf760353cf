"""Keys that identify actions and their results.

Both keys are BLAKE3 (hex, 64 digits) of canonical JSON. The *definition key* contains the definition keys of
the inputs and is known before anything runs; the *action key* contains the digests of the actual input
artifacts, so rebuilding an input with an identical result does not rebuild its consumers (early cutoff).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mmbuild.base.canonical_json import canonical_json, hash_json
from mmbuild.core.graph.action import Action, Json, Resources

__all__ = [
    "KEY_VERSION",
    "action_key",
    "body_key",
    "canonical_json",
    "definition_key",
    "hash_json",
    "is_sound",
    "job_key",
    "make_action",
]

KEY_VERSION = 1
"""Increase when the structure below changes; results under older keys are then no longer used."""


def definition_key(
    *,
    step: str,
    version: str,
    params: Mapping[str, Json],
    target: Mapping[str, Json],
    toolchain: Mapping[str, str],
    inputs: Mapping[str, str],
    sources: Mapping[str, str],
) -> str:
    """Return the key of an action before it runs; ``inputs`` are definition keys."""
    return hash_json(
        _key_content(
            kind="definition",
            step=step,
            version=version,
            params=params,
            target=target,
            toolchain=toolchain,
            inputs=inputs,
            sources=sources,
        )
    )


def action_key(action: Action, input_digests: Mapping[str, str]) -> str:
    """Return the key of a result; ``input_digests`` are artifact digests by the names in ``action.inputs``.

    Raises:
        KeyError: An input has no digest, or a digest is given for a name that is not an input.
    """
    if set(input_digests) != set(action.inputs):
        raise KeyError(f"{action.label}: inputs {sorted(action.inputs)}, digests {sorted(input_digests)}")
    return _key_of("action", action, input_digests)


class Keyed(Protocol):
    """Fields of a key, shared by planned actions and worker jobs."""

    @property
    def step(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Json]: ...
    @property
    def target(self) -> Mapping[str, Json]: ...
    @property
    def toolchain(self) -> Mapping[str, str]: ...
    @property
    def inputs(self) -> Mapping[str, str]: ...
    @property
    def sources(self) -> Mapping[str, str]: ...


def job_key(job: Keyed) -> str:
    """Return the :func:`action_key` of a job, whose inputs are already artifact digests."""
    return _key_of("action", job, job.inputs)


def is_sound(action: Action) -> bool:
    """Return whether the definition key matches the action's content; a damaged plan cache can break this."""
    return _key_of("definition", action, action.inputs) == action.definition_key


def body_key(action: Action) -> str:
    """Return the key of an action without its inputs.

    If the inputs are not known yet, early cutoff is possible only for an action whose body was built before.
    """
    return _key_of("body", action, dict.fromkeys(action.inputs, ""))


def make_action(
    *,
    label: str,
    step: str,
    version: str,
    params: Mapping[str, Json],
    target: Mapping[str, Json] | None = None,
    toolchain: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    locators: Mapping[str, str] | None = None,
    resources: Resources | None = None,
) -> Action:
    """Build an :class:`Action` with its definition key; the arguments are the fields of that class.

    Raises:
        TypeError: A value in the key is not plain JSON data.
    """
    content: dict[str, Any] = {
        "params": dict(params),
        "target": dict(target or {}),
        "toolchain": dict(toolchain or {}),
        "inputs": dict(inputs or {}),
        "sources": dict(sources or {}),
    }
    return Action(
        label=label,
        step=step,
        version=version,
        definition_key=definition_key(step=step, version=version, **content),
        locators=dict(locators or {}),
        resources=resources or Resources(),
        **content,
    )


def _key_of(kind: str, keyed: Keyed, inputs: Mapping[str, str]) -> str:
    return hash_json(
        _key_content(
            kind=kind,
            step=keyed.step,
            version=keyed.version,
            params=keyed.params,
            target=keyed.target,
            toolchain=keyed.toolchain,
            inputs=inputs,
            sources=keyed.sources,
        )
    )


def _key_content(
    *,
    kind: str,
    step: str,
    version: str,
    params: Mapping[str, Json],
    target: Mapping[str, Json],
    toolchain: Mapping[str, str],
    inputs: Mapping[str, str],
    sources: Mapping[str, str],
) -> dict[str, Json]:
    return {
        "kind": kind,
        "key_version": KEY_VERSION,
        "step": step,
        "version": version,
        "params": params,
        "target": target,
        "toolchain": toolchain,
        "inputs": inputs,
        "sources": sources,
    }
