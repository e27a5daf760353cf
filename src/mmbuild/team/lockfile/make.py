"""Finding out what a lock holds: a recipe is planned, and what the plan had to ask is written down."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.backends.table import backend
from mmbuild.base import gpu, host, pins
from mmbuild.base.canonical_json import hash_json
from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.files import read_file
from mmbuild.base.limits import YAML_TEXT
from mmbuild.base.pins import EMBEDDED, Pins, use_pins
from mmbuild.base.yaml_reader import YamlProblemError, parse_yaml
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.models.calibration_data.hub_dataset import DataSet, sample_file
from mmbuild.models.sources.hub_index import HubFile
from mmbuild.pipeline.preflight import backend_of_step
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.lockfile.model import Lockfile, lock_path

PARTS = ("model", "packages", "target")
"""What a lock keeps until it is told to move on. Recipes and files lie in the team's repository: that is where they
are kept, and a lock follows them."""

# Not all of them are in keys; an environment that has others is another environment.
_EMBEDDED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "Pillow")


@dataclass(frozen=True, slots=True)
class LockedPlan:
    """A recipe file, loaded and lowered, with the lock that describes that.

    Attributes:
        lock: What it follows from.
        variants: Validated recipes.
        graphs: One for each variant.
        findings: Warnings.
    """

    lock: Lockfile
    variants: tuple[ResolvedRecipe, ...]
    graphs: tuple[RecipeGraph, ...]
    findings: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class LockOptions:
    """How a recipe is loaded; as :class:`mmbuild.pipeline.planning.PlanOptions` says it."""

    offline: bool = False
    allow_outside: bool | None = None


def make(
    recipe: Path,
    store: Store,
    options: LockOptions,
    known: Lockfile | None = None,
    update: Collection[str] = (),
) -> LockedPlan:
    """Plan ``recipe`` and describe what the plan follows from.

    Args:
        recipe: A recipe file.
        store: For the digests of user files.
        options: How to load it.
        known: Its present lock: what that says of a part stands, except for parts in ``update``.
        update: Of :data:`PARTS`.

    Raises:
        RecipeError: The recipe has errors.
        MmbuildError: A source cannot be identified.
    """
    keep = {part: known for part in PARTS if known is not None and part not in update}
    stated = Pins(
        commits=keep["model"].commits if "model" in keep else {},
        packages=keep["packages"].packages if "packages" in keep else {},
    )
    target = dict(keep["target"].target) if "target" in keep else this_target()
    with use_pins(stated):
        return _plan(recipe, store, options, target, keep.get("packages"), keep.get("model"))


def this_target() -> dict[str, Any]:
    """This host, for a lock: the GPU also where the host's torch is one for CPUs, as TensorRT-LLM brings its own."""
    target = host.default_target()
    return {**target, "sm": target["sm"] if target["sm"] is not None else gpu.first_sm()}


def _plan(
    recipe: Path,
    store: Store,
    options: LockOptions,
    target: dict[str, Any],
    environments: Lockfile | None,
    models: Lockfile | None,
) -> LockedPlan:
    from mmbuild.base.diagnostics import RecipeError
    from mmbuild.pipeline.load import load_recipes
    from mmbuild.pipeline.planning import lower_all

    loaded = load_recipes([recipe], offline=options.offline, allow_outside=options.allow_outside)
    if any(item.severity == "error" for item in loaded.diagnostics):
        raise RecipeError(loaded.diagnostics)
    digests: dict[Path, str] = {}
    graphs = lower_all(loaded.variants, store, target=target, offline=options.offline, digests=digests)
    base = lock_path(recipe).absolute().parent
    hashes = {graph.recipe: _hash([graph]) for graph in graphs}
    lock = Lockfile(
        target=target,
        recipe={
            _name(path, base): _recipe_digest(path)
            for path in loaded.files
            if path.suffix in (".yaml", ".yml")
        },
        models=_models(loaded.variants, graphs, options.offline, models),
        files={_name(path, base): digest for path, digest in sorted(digests.items())},
        code=_code(loaded.variants),
        environments=_environments(loaded.variants, graphs, environments),
        variants=hashes,
        plan=_hash(graphs),
    )
    return LockedPlan(lock, loaded.variants, graphs, loaded.diagnostics)


def _hash(graphs: Sequence[RecipeGraph]) -> str:
    """Over all definition keys and what each engine is called; no machine's paths are in it."""
    keys = sorted({action.definition_key for graph in graphs for action in graph.actions})
    return hash_json({"actions": keys, "engines": {graph.recipe: graph.engine for graph in graphs}})


def _name(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.absolute(), base)).as_posix()


def _recipe_digest(path: Path) -> str:
    """Digest of a recipe's data: comments and order of keys say nothing."""
    text = read_file(path, YAML_TEXT)
    try:
        return hash_json(parse_yaml(text, YAML_TEXT))
    except YamlProblemError:  # a text that looks like a date and is none: a recipe all the same
        return hash_json({"text": text.decode("utf-8", "backslashreplace")})


def _models(
    variants: Sequence[ResolvedRecipe], graphs: Sequence[RecipeGraph], offline: bool, known: Lockfile | None
) -> dict[str, dict[str, Any]]:
    """Hub sources by revision: their commits, as the download actions have them, and the files of these."""
    found: dict[str, dict[str, Any]] = {}
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
            found.setdefault(source.source, {})[revision] = {"commit": commit, "files": files}
        for source_name, revision, entry in _data_sets(variant, graph, offline):
            found.setdefault(source_name, {})[revision] = entry
    return found


def _data_sets(
    variant: ResolvedRecipe, graph: RecipeGraph, offline: bool
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Source, revision, commit and sample file of the data sets that quantizations are fitted on; pictures are those
    of the commit."""
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
    return {name: _stated(listing[name])}


def _files(repo: str, commit: str, directories: Sequence[str], offline: bool) -> dict[str, dict[str, Any]]:
    """What the hub says of the files that a build takes; nothing where it cannot be asked and never was."""
    from mmbuild.models.errors import SourceError
    from mmbuild.models.sources import hf_layout, hub

    try:
        listing = hub.list_files(repo, commit, offline=offline)
    except SourceError:
        if not offline:
            raise
        return {}
    return {name: _stated(listing[name]) for name in sorted(hf_layout.required_files(listing, directories))}


def _stated(file: HubFile) -> dict[str, Any]:
    return {"sha256" if len(file.digest) == 64 else "git": file.digest, "size": file.size}


def _code(variants: Sequence[ResolvedRecipe]) -> dict[str, str]:
    named = [variant.recipe.model.code for variant in variants if variant.recipe.model.code is not None]
    return {code.source: code.revision for code in named}


def _environments(
    variants: Sequence[ResolvedRecipe], graphs: Sequence[RecipeGraph], known: Lockfile | None
) -> dict[str, dict[str, Any]]:
    """Versions in the keys, and what else says which environment it was.

    A recipe for TensorRT-LLM that mmbuild calibrates has two.
    """
    found: dict[str, dict[str, Any]] = {}
    for variant, graph in zip(variants, graphs, strict=True):
        chosen = backend(variant.recipe.engine.backend)
        main = chosen.environment(variant)
        found.setdefault(main, {"packages": {}})
        for action in graph.actions:
            if action.toolchain:
                name = main if backend_of_step(action.step) else EMBEDDED
                found.setdefault(name, {"packages": {}})["packages"].update(action.toolchain)
        found[main]["packages"].update(chosen.environment_packages(graph.actions))
        found[main].update(_kept(known, main) or chosen.environment_facts(variant))
    if EMBEDDED in found:
        here = host.installed_versions(_EMBEDDED_PACKAGES)
        stated = {key: pins.package(key) or here.get(key) for key in _EMBEDDED_PACKAGES}
        found[EMBEDDED]["packages"].update({key: version for key, version in stated.items() if version})
    return found


def _kept(known: Lockfile | None, name: str) -> dict[str, Any] | None:
    if known is None or name not in known.environments:
        return None
    return {key: value for key, value in known.environments[name].items() if key != "packages"}
