"""Recipe files to resolved recipes: the one way in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbuild.backends.table import backend
from mmbuild.base.diagnostics import Diagnostic, Violation, touches
from mmbuild.base.errors import MmbuildError
from mmbuild.base.limits import NAME
from mmbuild.base.yaml_nodes import YamlNode, dotted, find, has, parts_of, replace_at
from mmbuild.models.families import family
from mmbuild.models.families.facts import ModelFacts
from mmbuild.models.families.sanity_checks import require_sound
from mmbuild.models.sources.config import SourceConfig, read_config, require_directories
from mmbuild.models.sources.model_addresses import missing_directory
from mmbuild.schema.calibration_rules import calibration_faults
from mmbuild.schema.files import read_document
from mmbuild.schema.generation_rules import generation_faults
from mmbuild.schema.matrix import expand
from mmbuild.schema.model import Recipe
from mmbuild.schema.model_file_rules import ModelFiles, check_files
from mmbuild.schema.overrides import Override, parse_overrides
from mmbuild.schema.paths import resolve_paths
from mmbuild.schema.places import outside_faults, places_of
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.rules import check_rules
from mmbuild.schema.solver import derivations, solve
from mmbuild.schema.validation import check
from mmbuild.schema.verification_rules import verify_faults

_MARKS = 55  # characters that are added to a build's name: of temporary directories, locks and reports
_TRUE = ("1", "true", "yes")
_Configs = dict[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of a set of recipe files.

    Attributes:
        variants: Every variant without errors.
        diagnostics: Errors and warnings of all files, at once.
        files: Every file read: recipes, what they extend, local models with their directories.
    """

    variants: tuple[ResolvedRecipe, ...]
    diagnostics: tuple[Diagnostic, ...]
    files: tuple[Path, ...]


@dataclass(slots=True)
class _Session:
    """One call of :func:`load_recipes`: its options, and the configs and model directories read so far."""

    overrides: list[Override]
    offline: bool
    allow_outside: bool
    findings: list[Diagnostic] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    configs: dict[tuple[str, str | None], SourceConfig | MmbuildError] = field(default_factory=dict)
    models: dict[str, ModelFiles] = field(default_factory=dict)


def load_recipes(
    paths: Sequence[Path],
    *,
    overrides: Sequence[str] = (),
    offline: bool = False,
    allow_outside: bool | None = None,
) -> LoadResult:
    """Read recipe files and everything they name.

    Args:
        paths: Recipe files.
        overrides: ``dotted.key=value`` for every recipe, as given to ``--set``.
        offline: Ask no hub for a ``config.json``.
        allow_outside: Accept paths outside the project's root; None asks ``MMBUILD_ALLOW_OUTSIDE``.

    Returns:
        Variants and findings; nothing is raised for bad input.
    """
    if allow_outside is None:
        allow_outside = os.environ.get("MMBUILD_ALLOW_OUTSIDE", "").lower() in _TRUE
    parsed, findings = parse_overrides(overrides)
    session = _Session(parsed, offline, allow_outside, findings)
    variants = [variant for path in paths for variant in _load_file(Path(path), session)]
    _refuse_same_names(variants, session)
    _refuse_long_names(variants, session)
    return LoadResult(tuple(variants), _unique(session.findings), tuple(dict.fromkeys(session.files)))


def _load_file(path: Path, session: _Session) -> list[ResolvedRecipe]:
    document = read_document(path, allow_outside=session.allow_outside)
    session.files += document.files
    session.findings += document.findings
    if document.node is None:
        return []
    node = document.node
    for override in session.overrides:
        node = replace_at(node, override.key.split("."), override.value)
    variants, findings = expand(node, {override.key for override in session.overrides})
    session.findings += findings
    blocked = bool(document.findings) or any(item.severity == "error" for item in findings)
    loaded = [_load_variant(path, document.root, suffix, variant, session) for suffix, variant in variants]
    return [] if blocked else [variant for variant in loaded if variant is not None]


def with_node(variant: ResolvedRecipe, node: YamlNode, *, offline: bool = False) -> ResolvedRecipe | None:
    """``variant`` as if its files said ``node``; None where that is no valid recipe."""
    session = _Session([], offline, allow_outside=True)
    loaded = _load_variant(variant.path, variant.root, "", node, session)
    return None if loaded is None else replace(loaded, name=variant.name, places=variant.places)


def _load_variant(
    path: Path, root: Path, suffix: str, node: YamlNode, session: _Session
) -> ResolvedRecipe | None:
    recipe, findings, faulty = check(node)
    # What the YAML reader found at a place is not told again as a wrong type.
    reported = {(item.file, item.line, item.column) for item in session.findings if item.line}
    findings = [item for item in findings if (item.file, item.line, item.column) not in reported]
    if recipe is None:
        session.findings += findings
        return None
    recipe, outside = resolve_paths(recipe, node, root, session.allow_outside)
    findings += outside
    blamed = faulty | {item.path for item in outside}
    places = places_of(recipe, node, root, allow_outside=session.allow_outside)
    outside_places = [] if "model.source" in blamed else list(outside_faults(recipe, places))
    blamed |= {item.blame[0] for item in outside_places}
    facts, configs, fault = _model(recipe, blamed, root, session)
    model = ModelFiles() if facts is None else _model_files(recipe, root, facts, configs, session)
    fault = [*outside_places, *fault, *model.faults]
    # Whatever follows from a family that may be the wrong one is no root cause.
    doubtful = {"model.family"} if any(item.code in _NOT_OF_THE_FAMILY for item in fault) else set()
    faults = [*fault, *check_rules(recipe, facts, faulty | doubtful)]
    variant = None
    if facts is not None:
        variant = _resolved(path, root, f"{recipe.name}{suffix}", recipe, facts, configs)
        about_settings, settings_files = generation_faults(
            recipe, facts, configs["model"], model.directory, blamed
        )
        # A file that two readers find damaged is one fault.
        known = {item.message for item in about_settings}
        faults = [*(item for item in faults if item.message not in known), *about_settings]
        session.files += settings_files
        faults += _not_by_the_backend(variant, faulty, faults)
    told_of = blamed | {item.blame[0] for item in faults if item.severity == "error"}
    for about, read in (
        calibration_faults(recipe, told_of),
        verify_faults(recipe, model.given, told_of),
    ):
        faults += about
        session.files += read
    findings += [_point(node, item) for item in faults]
    session.findings += findings
    if faulty or variant is None or any(item.severity == "error" for item in findings):
        return None
    return replace(variant, node=node, places=places)


def _resolved(
    path: Path, root: Path, name: str, recipe: Recipe, facts: ModelFacts, configs: _Configs
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


def _not_by_the_backend(
    variant: ResolvedRecipe, faulty: set[str], reported: Sequence[Violation]
) -> list[Violation]:
    """What the backend cannot build; a key that a rule objects to has its cause already."""
    known = faulty | {item.blame[0] for item in reported if item.severity == "error"}
    found = backend(variant.recipe.engine.backend).check(variant)
    return [item for item in found if not touches(item.blame, known)]


# The model is of another family, or of none.
_NOT_OF_THE_FAMILY = ("MM410", "MM711")
# Whom a family's findings blame first where they do not say it; the model's source where they are not listed.
_BLAME = {
    "MM410": ("model.family", "model.source"),
    "MM415": ("model.vision.source",),
    "MM416": ("model.vision.source",),
}


def _model(
    recipe: Recipe, faulty: set[str], root: Path, session: _Session
) -> tuple[ModelFacts | None, _Configs, list[Violation]]:
    """The model's facts and configs, or what stands in the way."""
    model = recipe.model
    if any(path.split(".")[0] == "model" for path in faulty):
        return None, {}, []
    configs: _Configs = {}
    for name, key, source in (("model", "model", model), ("vision", "model.vision", model.vision)):
        if source is None or (
            name == "vision" and "vision" not in family(model.family).TRAITS.second_sources
        ):
            continue
        found = _known_config(source.source, source.revision, root, session)
        if isinstance(found, MmbuildError):
            return None, {}, [Violation(found.code, (f"{key}.source",), found.message, found.hint)]
        session.files += found.files
        configs[name] = found.config
    try:
        facts = family(model.family).facts(configs["model"], configs.get("vision"))
        require_sound(facts)
        require_directories(model.source, root, facts.directories)
        return facts, configs, []
    except MmbuildError as error:
        blame = getattr(error, "blame", ()) or _BLAME.get(error.code, ("model.source",))
        return None, configs, [Violation(error.code, blame, error.message, error.hint)]
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        message = f"the config.json of `{model.source}` is damaged: {type(error).__name__} {error}"
        return None, configs, [Violation("MM132", ("model.source",), message, "Fetch config.json again")]


def _model_files(
    recipe: Recipe, root: Path, facts: ModelFacts, configs: _Configs, session: _Session
) -> ModelFiles:
    """What is wrong with the files next to config.json; variants of one model are looked at once."""
    model = recipe.model
    known = json.dumps([model.model_dump(mode="json"), str(root)], sort_keys=True)
    if known not in session.models:
        named = {"model": model, "vision": model.vision}
        configs_read = {
            name: session.configs.get((source.source, source.revision))
            for name, source in named.items()
            if source is not None
        }
        fetched = [
            name
            for name, found in configs_read.items()
            if isinstance(found, SourceConfig) and found.origin == "hub"
        ]
        session.models[known] = check_files(model, root, facts, configs, fetched)
    session.files += session.models[known].files
    return session.models[known]


def _known_config(
    source: str, revision: str | None, root: Path, session: _Session
) -> SourceConfig | MmbuildError:
    known = (source, revision)
    if known not in session.configs:
        session.configs[known] = _read_config(source, revision, root, session.offline)
    return session.configs[known]


def _read_config(source: str, revision: str | None, root: Path, offline: bool) -> SourceConfig | MmbuildError:
    try:
        return read_config(source, revision, root, offline=offline)
    except MmbuildError as error:
        return error


def _point(node: YamlNode, fault: Violation) -> Diagnostic:
    written = next((path for path in fault.blame if has(node, path)), fault.blame[0])
    hint = (_hub_hint(node, written) if fault.code == "MM130" else None) or fault.hint
    bare = Diagnostic(fault.code, fault.message, fault.severity, path=written, hint=hint)
    return _locate(node, bare)


def _hub_hint(node: YamlNode, key: str) -> str | None:
    """What to write where a directory that does not exist is called like a model on the hub."""
    at, _ = find(node, parts_of(key))
    if not isinstance(at.value, str):
        return None
    return missing_directory(at.value, Path(at.span.source.directory) / at.value)


def _locate(node: YamlNode, item: Diagnostic) -> Diagnostic:
    """``item`` with the place of its path, or of the nearest mapping that the user wrote."""
    at, reached = find(node, parts_of(item.path))
    span = at.key or at.span if isinstance(at.value, Mapping) else at.span
    path = dotted(reached) or item.path
    return replace(
        item,
        file=span.source.label,
        line=span.line,
        column=span.column,
        excerpt=span.excerpt,
        width=span.width,
        path=path,
    )


def _refuse_long_names(variants: Iterable[ResolvedRecipe], session: _Session) -> None:
    """A build's name is a file's name, with marks of what is written next to it."""
    for variant in variants:
        if len(os.fsencode(variant.name)) > NAME - _MARKS:
            session.findings.append(
                Diagnostic(
                    "MM752",
                    f"the variant `{variant.name[:60]} ...` has a name of {len(variant.name)} characters, "
                    f"and a build's directory can have {NAME - _MARKS}",
                    file=str(variant.path),
                    path="name",
                    hint="Shorten `name`, or take words for the matrix's values that are shorter",
                )
            )


def _refuse_same_names(variants: Iterable[ResolvedRecipe], session: _Session) -> None:
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
                    hint="Give one of them another name, or name the file once",
                )
            )


def _unique(findings: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    # Variants of one recipe share most of their lines, and so their findings.
    return tuple(dict.fromkeys(findings))
