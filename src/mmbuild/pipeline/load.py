"""Loads recipe files and resolves them; every command goes through :func:`load`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmbuild.backends.table import backend
from mmbuild.base.diagnostics import Diagnostic, RecipeError, Violation, touches
from mmbuild.base.limits import NAME
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.base.terminal_text import encodable
from mmbuild.base.yaml_nodes import YamlNode, diagnostic_at, dotted, find, has, parts_of, replace_at
from mmbuild.core.store.build_names import reserved_part
from mmbuild.models.families.facts import ModelFacts
from mmbuild.models.sources.model_addresses import missing_directory
from mmbuild.pipeline.model_reading import Configs, ModelCache, check_files_once, read_facts
from mmbuild.pipeline.options import PlanOptions
from mmbuild.schema.calibration_rules import calibration_faults
from mmbuild.schema.files import read_document
from mmbuild.schema.generation_rules import generation_faults
from mmbuild.schema.matrix import expand
from mmbuild.schema.model import Recipe
from mmbuild.schema.model_file_rules import ModelFiles
from mmbuild.schema.overrides import Override, parse_overrides
from mmbuild.schema.paths import resolve_paths
from mmbuild.schema.places import outside_faults, places_of
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.rules import check_rules
from mmbuild.schema.solver import derivations, solve
from mmbuild.schema.validation import check
from mmbuild.schema.verification_rules import verify_faults

_SUFFIX = 55  # characters added to a build's name for temporary directories, locks and reports
_TRUE = ("1", "true", "yes")


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of loading a set of recipe files.

    Attributes:
        variants: Every variant without errors.
        diagnostics: Errors and warnings of all files.
        files: Every file read: recipes, the files they extend, local models with their directories.
    """

    variants: tuple[ResolvedRecipe, ...]
    diagnostics: tuple[Diagnostic, ...]
    files: tuple[Path, ...]


@dataclass(slots=True)
class _Session:
    """State of one :func:`load_recipes` call: options, findings, and the files and models read so far."""

    overrides: list[Override]
    models: ModelCache
    allow_outside: bool
    findings: list[Diagnostic] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def load_recipes(
    paths: Sequence[Path],
    *,
    overrides: Sequence[str] = (),
    offline: bool = False,
    allow_outside: bool | None = None,
    pins: Pins = NO_PINS,
) -> LoadResult:
    """Read recipe files and everything they refer to.

    Args:
        paths: Recipe files.
        overrides: ``dotted.key=value`` for every recipe, as for ``--set``.
        offline: Do not fetch any ``config.json`` from the hub.
        allow_outside: Accept paths outside the project's root; None reads ``MMBUILD_ALLOW_OUTSIDE``.
        pins: Commits that replace branches and tags.

    Returns:
        Variants and findings; invalid input raises nothing.
    """
    if allow_outside is None:
        allow_outside = os.environ.get("MMBUILD_ALLOW_OUTSIDE", "").lower() in _TRUE
    parsed, findings = parse_overrides(overrides)
    incomplete = bool(findings)
    session = _Session(parsed, ModelCache(offline, pins), allow_outside, findings)
    variants = [variant for path in paths for variant in _load_file(Path(path), session)]
    _refuse_duplicate_names(variants, session)
    variants = [variant for variant in variants if _has_usable_name(variant, session)]
    # Without an override, a variant is not what was requested.
    requested = () if incomplete else tuple(variants)
    return LoadResult(requested, _unique(session.findings), tuple(dict.fromkeys(session.files)))


def load(request: PlanOptions, pins: Pins = NO_PINS) -> LoadResult:
    """:func:`load_recipes` for ``request``."""
    return load_recipes(
        request.paths,
        overrides=request.overrides,
        offline=request.offline,
        allow_outside=request.allow_outside,
        pins=pins,
    )


def load_valid(request: PlanOptions, pins: Pins = NO_PINS) -> LoadResult:
    """:func:`load`, for recipes without errors.

    Raises:
        RecipeError: The recipes have errors; all of them at once.
    """
    loaded = load(request, pins)
    if any(item.severity == "error" for item in loaded.diagnostics):
        raise RecipeError(loaded.diagnostics)
    return loaded


def _load_file(path: Path, session: _Session) -> list[ResolvedRecipe]:
    if not _is_text(path.absolute()):
        message = f"recipe `{path}` cannot be read: its path, `{path.absolute()}`, is not UTF-8"
        session.findings.append(
            Diagnostic(
                "MM100",
                encodable(message, "utf-8"),
                file=str(path),
                hint="rename the file or the directory: manifests and plans contain the path",
            )
        )
        return []
    document = read_document(path, allow_outside=session.allow_outside)
    session.files += document.files
    session.findings += document.findings
    if document.node is None:
        return []
    node = document.node
    for override in session.overrides:
        node = replace_at(node, override.key.split("."), override.value)
    variants, findings = expand(node, session.overrides)
    session.findings += findings
    blocked = bool(document.findings) or any(item.severity == "error" for item in findings)
    loaded = [_load_variant(path, document.root, suffix, variant, session) for suffix, variant in variants]
    return [] if blocked else [variant for variant in loaded if variant is not None]


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def with_node(variant: ResolvedRecipe, node: YamlNode, *, offline: bool = False) -> ResolvedRecipe | None:
    """``variant`` as if its files contained ``node``; None if that is not a valid recipe."""
    session = _Session([], ModelCache(offline), allow_outside=True)
    loaded = _load_variant(variant.path, variant.root, "", node, session)
    return None if loaded is None else replace(loaded, name=variant.name, places=variant.places)


def _load_variant(
    path: Path, root: Path, suffix: str, node: YamlNode, session: _Session
) -> ResolvedRecipe | None:
    recipe, findings, faulty = check(node)
    # A problem that the YAML reader reported is not reported again as a wrong type.
    reported = {(item.file, item.line, item.column) for item in session.findings if item.line}
    findings = [
        item
        for item in findings
        if (item.file, item.line, item.column) not in reported and not _is_reported_version(item, session)
    ]
    if recipe is None:
        session.findings += findings
        return None
    recipe, outside = resolve_paths(recipe, node, root, session.allow_outside)
    findings += outside
    blamed = faulty | {item.path for item in outside}
    places = places_of(recipe, node, root, allow_outside=session.allow_outside)
    outside_places = [] if "model.source" in blamed else list(outside_faults(recipe, places))
    blamed |= {item.blame[0] for item in outside_places}
    facts, configs, fault, read = read_facts(recipe.model, blamed, root, session.models)
    model = (
        ModelFiles()
        if facts is None
        else check_files_once(recipe.model, root, facts, configs, session.models)
    )
    session.files += (*read, *model.files)
    fault = [*outside_places, *fault, *model.faults]
    # Rule violations that follow from a family that may be wrong are not root causes.
    doubtful = {"model.family"} if any(item.code in _FAMILY_MISMATCH for item in fault) else set()
    faults = [*fault, *check_rules(recipe, facts, faulty | doubtful)]
    variant = None
    if facts is not None:
        variant = _resolved(path, root, f"{recipe.name}{suffix}", recipe, facts, configs)
        settings_faults, settings_files = generation_faults(
            recipe, facts, configs["model"], model.directory, blamed
        )
        # A damaged file is one fault even if two readers report it.
        known = {item.message for item in settings_faults}
        faults = [*(item for item in faults if item.message not in known), *settings_faults]
        session.files += settings_files
        faults += _backend_faults(variant, faulty, faults)
    reported_keys = blamed | {item.blame[0] for item in faults if item.severity == "error"}
    for section_faults, files in (
        calibration_faults(recipe, reported_keys),
        verify_faults(recipe, model.given, reported_keys),
    ):
        faults += section_faults
        session.files += files
    findings += [to_diagnostic(node, item) for item in faults]
    session.findings += findings
    if faulty or variant is None or any(item.severity == "error" for item in findings):
        return None
    return replace(variant, node=node, places=places)


def _is_reported_version(item: Diagnostic, session: _Session) -> bool:
    """Whether ``item`` is a missing version of a file, which was reported at the file's first line."""
    missing = (item.code, item.path) == ("MM111", "version")
    return missing and any((one.code, one.path) == ("MM111", "version") for one in session.findings)


def _resolved(
    path: Path, root: Path, name: str, recipe: Recipe, facts: ModelFacts, configs: Configs
) -> ResolvedRecipe:
    return ResolvedRecipe(
        name=name,
        path=path,
        root=root,
        recipe=solve(recipe, facts).model_copy(update={"name": name}),
        facts=facts,
        derivations=derivations(recipe, facts),
        configs=configs,
    )


def _backend_faults(
    variant: ResolvedRecipe, faulty: set[str], reported: Sequence[Violation]
) -> list[Violation]:
    """What the backend cannot build, except for keys that a rule already rejects."""
    known = faulty | {item.blame[0] for item in reported if item.severity == "error"}
    violations = backend(variant.recipe.engine.backend).check(variant)
    return [item for item in violations if not touches(item.blame, known)]


# The model belongs to another family, or to none.
_FAMILY_MISMATCH = ("MM410", "MM711")


def to_diagnostic(node: YamlNode, fault: Violation) -> Diagnostic:
    """``fault`` with the place of the key to blame."""
    key = next((path for path in fault.blame if has(node, path)), fault.blame[0])
    hint = (_hub_hint(node, key) if fault.code == "MM130" else None) or fault.hint
    at, reached = find(node, parts_of(key))
    # Of a mapping, the key that the user wrote is shown, not the lines within it.
    span = at.key or at.span if isinstance(at.value, Mapping) else at.span
    found = diagnostic_at(fault.code, fault.message, span, path=dotted(reached) or key, hint=hint)
    return replace(found, severity=fault.severity)


def _hub_hint(node: YamlNode, key: str) -> str | None:
    """The correct value if a missing directory has the name of a model on the hub."""
    at, _ = find(node, parts_of(key))
    if not isinstance(at.value, str):
        return None
    return missing_directory(at.value, Path(at.span.source.directory) / at.value)


def _has_usable_name(variant: ResolvedRecipe, session: _Session) -> bool:
    """Report a name too long for a build directory and the suffixed files next to it, and a name of such files."""
    if (part := reserved_part(variant.name)) is not None:
        message = (
            f"no build can have the name `{variant.name}`: directories with `{part}` in their names are "
            "mmbuild's own, which it removes"
        )
        session.findings.append(_at_name(variant, message, f"write the name without `{part}`"))
        return False
    if len(os.fsencode(variant.name)) > NAME - _SUFFIX:
        message = (
            f"the name of the variant `{variant.name[:60]} ...` has {len(variant.name)} characters, "
            f"but a build directory can have {NAME - _SUFFIX}"
        )
        hint = "shorten `name`, or use shorter labels for the matrix values"
        session.findings.append(_at_name(variant, message, hint))
        return False
    return True


def _at_name(variant: ResolvedRecipe, message: str, hint: str) -> Diagnostic:
    """MM752 at the recipe's name."""
    assert variant.node is not None
    return diagnostic_at("MM752", message, find(variant.node, ["name"])[0].span, path="name", hint=hint)


def _refuse_duplicate_names(variants: Iterable[ResolvedRecipe], session: _Session) -> None:
    seen: dict[str, ResolvedRecipe] = {}
    for variant in variants:
        first = seen.setdefault(variant.name, variant)
        if first is not variant:
            session.findings.append(
                Diagnostic(
                    "MM126",
                    f"`{variant.name}` is built by {first.path} and by {variant.path}",
                    file=str(variant.path),
                    path="name",
                    hint="rename one of them, or pass the file only once",
                )
            )


def _unique(findings: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    # Variants of one recipe share most lines and therefore most findings.
    return tuple(dict.fromkeys(findings))
