"""Makes locks: plans a recipe and records every external fact that the plan depends on."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmbuild.backends.table import backend
from mmbuild.base import gpu, host
from mmbuild.base.canonical_json import hash_json
from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.files import read_file
from mmbuild.base.limits import YAML_TEXT
from mmbuild.base.pins import EMBEDDED, Pins
from mmbuild.base.yaml_reader import YamlProblemError, parse_yaml
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.models.calibration_data.hub_dataset import DataSet, sample_file
from mmbuild.models.sources.hub_index import HubFile
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.preflight import backend_of_step
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.lockfile.model import Lockfile, lock_path

PARTS = ("model", "packages", "target")
"""Parts that a lock keeps until they are updated. Recipes and files are versioned in the team's repository, so a lock
follows them."""

# Not all of them are part of keys, but all identify the environment.
_EMBEDDED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "Pillow")


@dataclass(frozen=True, slots=True)
class LockedPlan:
    """A recipe file, loaded and lowered, with the lock that describes it.

    Attributes:
        lock: The facts that the plan depends on.
        variants: Validated recipes.
        graphs: One graph per variant.
        findings: Warnings.
        note: Why this machine cannot build the plan, as a line for the person; empty if it can.
    """

    lock: Lockfile
    variants: tuple[ResolvedRecipe, ...]
    graphs: tuple[RecipeGraph, ...]
    findings: tuple[Diagnostic, ...] = ()
    note: str = ""


def make(
    recipe: Path,
    store: Store,
    request: PlanOptions,
    known: Lockfile | None = None,
    update: Collection[str] = (),
) -> LockedPlan:
    """Plan ``recipe`` and record what the plan depends on.

    Args:
        recipe: A recipe file.
        store: The store, for digests of user files.
        request: How to load the recipe; its paths are not used.
        known: Its current lock, whose parts are kept unless they are in ``update``.
        update: Parts to update, from :data:`PARTS`.

    Raises:
        RecipeError: The recipe has errors.
        MmbuildError: A source cannot be identified.
    """
    keep = {part: known for part in PARTS if known is not None and part not in update}
    pinned = Pins(
        commits=keep["model"].commits if "model" in keep else {},
        environments=keep["packages"].packages if "packages" in keep else {},
    )
    target = dict(keep["target"].target) if "target" in keep else this_target()
    return _plan(recipe, store, request, target, pinned, keep.get("packages"), keep.get("model"))


def this_target() -> dict[str, Any]:
    """This host as a target; includes the GPU even if torch is a CPU build, since TensorRT-LLM has its own."""
    target = host.default_target()
    return {**target, "sm": target["sm"] if target["sm"] is not None else gpu.first_sm()}


def _plan(
    recipe: Path,
    store: Store,
    request: PlanOptions,
    target: dict[str, Any],
    pins: Pins,
    environments: Lockfile | None,
    models: Lockfile | None,
) -> LockedPlan:
    from mmbuild.pipeline.load import load_valid
    from mmbuild.pipeline.planning import lower_all

    loaded = load_valid(replace(request, paths=(recipe,)), pins)
    digests: dict[Path, str] = {}
    graphs = lower_all(
        loaded.variants, store, target=target, offline=request.offline, pins=pins, digests=digests
    )
    base = lock_path(recipe).absolute().parent
    hashes = {graph.recipe: _hash([graph]) for graph in graphs}
    lock = Lockfile(
        target=target,
        recipe={
            _name(path, base): _recipe_digest(path)
            for path in loaded.files
            if path.suffix in (".yaml", ".yml")
        },
        models=_models(loaded.variants, graphs, request.offline, models),
        files={_name(path, base): digest for path, digest in sorted(digests.items())},
        code=_code(loaded.variants),
        environments=_environments(loaded.variants, graphs, environments, pins),
        variants=hashes,
        plan=_hash(graphs),
    )
    return LockedPlan(lock, loaded.variants, graphs, loaded.diagnostics)


def _hash(graphs: Sequence[RecipeGraph]) -> str:
    """Hash of all definition keys and engine names; independent of local paths."""
    keys = sorted({action.definition_key for graph in graphs for action in graph.actions})
    return hash_json({"actions": keys, "engines": {graph.recipe: graph.engine for graph in graphs}})


def _name(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.absolute(), base)).as_posix()


def _recipe_digest(path: Path) -> str:
    """Digest of a recipe's data; comments and the order of keys do not matter."""
    text = read_file(path, YAML_TEXT)
    try:
        return hash_json(parse_yaml(text, YAML_TEXT))
    except YamlProblemError:  # such as text that looks like a date but is not; the recipe is still usable
        return hash_json({"text": text.decode("utf-8", "backslashreplace")})


def _models(
    variants: Sequence[ResolvedRecipe], graphs: Sequence[RecipeGraph], offline: bool, known: Lockfile | None
) -> dict[str, dict[str, Any]]:
    """Hub sources by revision, with the commits of the download actions and the files of these commits."""
    models: dict[str, dict[str, Any]] = {}
    for variant, graph in zip(variants, graphs, strict=True):
        commits = {
            action.params["repo"]: action
            for action in graph.actions
            if action.step == "download" and action.params.get("commit")
        }
        for source in (variant.recipe.model, variant.recipe.model.vision):
            if source is None or source.source.removeprefix("hf://") not in commits:
                continue
            action = commits[source.source.removeprefix("hf://")]
            revision = source.revision or "main"
            commit = action.params["commit"]
            old = known.models.get(source.source, {}).get(revision) if known is not None else None
            files = (
                old["files"]
                if old is not None and old["commit"] == commit and old.get("files")
                else _files(action.params["repo"], commit, action.params.get("directories", ()), offline)
            )
            models.setdefault(source.source, {})[revision] = {"commit": commit, "files": files}
        for source_name, revision, entry in _data_sets(variant, graph, offline):
            models.setdefault(source_name, {})[revision] = entry
    return models


def _data_sets(
    variant: ResolvedRecipe, graph: RecipeGraph, offline: bool
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Source, revision, commit and sample file of each calibration data set; its images are fixed by the commit."""
    calibration = variant.recipe.engine.quantization.calibration
    for action in graph.actions:
        if action.step == "calibration_data" and action.params["commit"] and calibration is not None:
            repo, commit = action.params["repo"], action.params["commit"]
            names = _sample_files(DataSet(repo, action.params["file"]), commit, offline)
            yield f"hf://{repo}", calibration.revision or "main", {"commit": commit, "files": names}


def _sample_files(data_set: DataSet, commit: str, offline: bool) -> dict[str, dict[str, Any]]:
    from mmbuild.models.errors import SourceError
    from mmbuild.models.sources import hub

    try:
        listing = hub.list_files(data_set.repo, commit, offline=offline)
    except SourceError:
        if not offline:
            raise
        return {}
    name = sample_file(data_set, listing)
    return {name: _file_entry(listing[name])}


def _files(repo: str, commit: str, directories: Sequence[str], offline: bool) -> dict[str, dict[str, Any]]:
    """Digests and sizes of the files a build needs, from the hub; empty if offline and not cached."""
    from mmbuild.models.errors import SourceError
    from mmbuild.models.files import hf_layout
    from mmbuild.models.sources import hub

    try:
        listing = hub.list_files(repo, commit, offline=offline)
    except SourceError:
        if not offline:
            raise
        return {}
    return {
        name: _file_entry(listing[name]) for name in sorted(hf_layout.required_files(listing, directories))
    }


def _file_entry(file: HubFile) -> dict[str, Any]:
    return {"sha256" if len(file.digest) == 64 else "git": file.digest, "size": file.size}


def _code(variants: Sequence[ResolvedRecipe]) -> dict[str, str]:
    codes = [variant.recipe.model.code for variant in variants if variant.recipe.model.code is not None]
    return {code.source: code.revision for code in codes}


def _environments(
    variants: Sequence[ResolvedRecipe], graphs: Sequence[RecipeGraph], known: Lockfile | None, pins: Pins
) -> dict[str, dict[str, Any]]:
    """Versions that are part of keys, and other facts that identify each environment.

    A recipe for TensorRT-LLM that mmbuild calibrates has two environments.
    """
    environments: dict[str, dict[str, Any]] = {}
    for variant, graph in zip(variants, graphs, strict=True):
        chosen = backend(variant.recipe.engine.backend)
        main = chosen.environment(variant)
        environments.setdefault(main, {"packages": {}})
        for action in graph.actions:
            if action.toolchain:
                name = main if backend_of_step(action.step) else EMBEDDED
                environments.setdefault(name, {"packages": {}})["packages"].update(action.toolchain)
        environments[main]["packages"].update(chosen.environment_packages(graph.actions))
        environments[main].update(_kept(known, main) or chosen.environment_facts(variant))
    if EMBEDDED in environments:
        installed = host.installed_versions(_EMBEDDED_PACKAGES)
        versions = {key: pins.package(key) or installed.get(key) for key in _EMBEDDED_PACKAGES}
        environments[EMBEDDED]["packages"].update(
            {key: version for key, version in versions.items() if version}
        )
    return environments


def _kept(known: Lockfile | None, name: str) -> dict[str, Any] | None:
    if known is None or name not in known.environments:
        return None
    return {key: value for key, value in known.environments[name].items() if key != "packages"}
