"""Actions: a step with its parameters and inputs, identified by a definition key.

The definition key is known before anything runs. The action key, which identifies a *result*, replaces the
definition keys of the inputs with the digests of the artifacts they produced (``mmbuild.core.graph.keys``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources an action needs while it runs. Estimates; never part of a key.

    Attributes:
        cores: CPU cores.
        memory: Peak anonymous host memory, bytes.
        disk: Space for the output and its staging, bytes.
        gpus: Number of GPUs; the scheduler grants that many ids.
        gpu_memory: Peak memory on each GPU, bytes; 0 if unknown.
        seconds: Expected wall time, for the critical path; 0 if unknown.
        gpu_shared: Whether others may use the GPUs meanwhile: for compiling, not for anything that measures.
        download: Bytes fetched over the network.
    """

    cores: int = 1
    memory: int = 0
    disk: int = 0
    gpus: int = 0
    gpu_memory: int = 0
    seconds: float = 0.0
    gpu_shared: bool = False
    download: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """A step with inputs and parameters.

    Attributes:
        label: Name for display, ``<recipe>/<step>``; not part of any key.
        step: Name in the step registry.
        version: The step's version at planning time.
        params: Plain JSON data, in the key.
        target: Plain JSON data (device, sm, isa), in the key; empty if the result does not depend on it.
        toolchain: Versions of the software that affects the result (``{"torch": "2.13.0+cpu"}``), in the key.
        inputs: Definition keys of the producing actions by input name, in the key.
        sources: Digests of user files and remote sources by name, in the key.
        locators: Their paths or URLs by name; not in the key.
        resources: Estimates; not in the key.
        definition_key: BLAKE3 (hex) of the canonical JSON of everything in the key.
    """

    label: str
    step: str
    version: str
    params: Mapping[str, Json]
    definition_key: str
    target: Mapping[str, Json] = field(default_factory=dict)
    toolchain: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    locators: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()


@dataclass(frozen=True, slots=True)
class RecipeGraph:
    """Actions of one recipe variant.

    Attributes:
        recipe: The variant's name; its engine is assembled into ``build/<recipe>``.
        actions: All actions, producers before consumers.
        engine: Definition key of the assemble action; empty for a graph that fills no engine directory.
        settings: The variant's explicit recipe values by dotted key; part of no key, recorded with the build.
        file: The recipe file, relative to the root of its project; likewise.
    """

    recipe: str
    actions: tuple[Action, ...]
    engine: str
    settings: Mapping[str, Json] = field(default_factory=dict, compare=False)
    file: str = field(default="", compare=False)
