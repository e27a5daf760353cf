"""Reads recipe files with the recipes they extend, and finds the project root that confines paths."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.diagnostics import Diagnostic, nearest
from mmbuild.base.files import FileRefusedError, entries, read_file
from mmbuild.base.limits import YAML_TEXT
from mmbuild.base.yaml_nodes import Source, Span, YamlNode, diagnostic_at, merge, printable
from mmbuild.base.yaml_parser import parse, split_lines
from mmbuild.schema.recipe_names import MARKER, SUFFIXES, recipe_next_to
from mmbuild.schema.validation import version_faults

MAX_CHAIN = 16
"""Longest chain of recipes that extend one another."""
_ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(?<!\.yaml)(?<!\.yml)")
_ROOT_MARKS = (".git", "pyproject.toml", MARKER)


@dataclass(slots=True)
class Document:
    """A recipe file with everything it extends, merged.

    Attributes:
        root: Project root.
        allow_outside: Whether a base recipe outside the root is accepted.
        node: The merged mapping, or None if it could not be read.
        findings: Diagnostics so far.
        files: Every file read.
    """

    root: Path
    allow_outside: bool = False
    node: YamlNode | None = None
    findings: list[Diagnostic] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def project_root(recipe: Path) -> Path:
    """The nearest directory above ``recipe`` with ``.git``, ``pyproject.toml`` or ``mmbuild.yaml``, else its own."""
    # Normalized, because the parents of `..` would be wrong.
    directory = Path(os.path.normpath(recipe.absolute())).parent
    for candidate in (directory, *directory.parents):
        if any((candidate / mark).exists() for mark in _ROOT_MARKS):
            return candidate
    return directory


def is_confined(path: Path, root: Path) -> bool:
    """Whether ``path`` is inside ``root`` after resolving symbolic links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def read_document(path: Path, *, allow_outside: bool = False) -> Document:
    """Read ``path`` and the recipes it extends."""
    document = Document(project_root(path), allow_outside)
    document.node = _read(path, None, (), document)
    return document


def _read(
    path: Path, reference: YamlNode | None, chain: tuple[Path, ...], document: Document
) -> YamlNode | None:
    refusal = _refuse(path, reference, chain, document)
    if refusal is not None:
        document.findings.append(refusal)
        return None
    text = _text(path, reference, document)
    if text is None:
        return None
    document.files.append(path.absolute())
    source = Source(_label(path), split_lines(text), str(path.absolute().parent))
    node, findings = parse(source)
    document.findings += findings
    if node is None:
        return None
    if not isinstance(node.value, dict):
        document.findings.append(
            diagnostic_at(
                "MM114", "a recipe must be a mapping of keys", node.span, hint="start with `version: 1`"
            )
        )
        return None
    if {"lock", "environments"} <= node.value.keys():
        document.findings.append(_not_a_recipe(path))
        return None
    if "version" not in node.value:
        document.findings.append(
            diagnostic_at(
                "MM111",
                "the recipe has no `version`",
                Span(source, 1, 1),
                path="version",
                hint="add `version: 1`",
            )
        )
    return _extended(path, node, (*chain, Path(os.path.realpath(path))), document)


def _not_a_recipe(lock: Path) -> Diagnostic:
    """The finding for a file that ``mmbuild lock`` wrote."""
    owner = next((item for suffix in SUFFIXES if (item := lock.with_suffix(suffix)).is_file()), None)
    name = "RECIPE" if owner is None else shlex.quote(_label(owner))
    return Diagnostic(
        "MM100",
        f"`{_label(lock)}` is a lock, not a recipe",
        file=_label(lock),
        hint=f"`mmbuild apply {name} --locked` uses it",
    )


def _extended(path: Path, node: YamlNode, chain: tuple[Path, ...], document: Document) -> YamlNode | None:
    base = node.value.get("extends")
    if base is None or base.value is None:
        return node
    if not isinstance(base.value, str) or base.value in ("", ".", "..") or "\0" in base.value:
        document.findings.append(
            diagnostic_at("MM114", "`extends` must be the path of one recipe file", base.span, path="extends")
        )
        return None
    below = _read(path.parent / os.path.expanduser(base.value), base, chain, document)
    document.findings += version_faults(below)
    own = YamlNode({key: child for key, child in node.value.items() if key != "extends"}, node.span, node.key)
    # Without its base, the rest would only produce follow-up findings.
    return merge(below, own) if below is not None else None


def _refuse(
    path: Path, reference: YamlNode | None, chain: tuple[Path, ...], document: Document
) -> Diagnostic | None:
    if reference is None:
        return None
    real = Path(os.path.realpath(path))
    if real in chain:
        names = " -> ".join(_label(item) for item in (*chain[chain.index(real) :], real))
        hint = "move the shared keys into a third recipe"
        return diagnostic_at(
            "MM120", f"`extends` is circular: {names}", reference.span, path="extends", hint=hint
        )
    if len(chain) >= MAX_CHAIN:
        return diagnostic_at(
            "MM751",
            f"more than {MAX_CHAIN} recipes extend one another",
            reference.span,
            path="extends",
            hint="extend a single recipe that holds the shared keys",
        )
    if not document.allow_outside and not is_confined(path, document.root):
        return diagnostic_at(
            "MM122",
            f"`{reference.value}` is outside the project root {document.root}",
            reference.span,
            path="extends",
            hint="move it into the project, write an empty mmbuild.yaml where the project begins, or allow it with "
            "--allow-outside",
        )
    return None


def _model_hint(path: Path) -> str | None:
    """A hint if the path is the address of a model."""
    if _ON_HUB.fullmatch(str(path)) and not path.parent.exists():
        return f"a recipe is a .yaml file; for the model on the hub, `mmbuild init {path}` writes one"
    scheme, _, rest = str(path).partition(":/")  # a path has no double slashes
    if scheme not in ("hf", "http", "https", "dummy"):
        return None
    return f"that is a model: `mmbuild init {scheme}://{rest}` writes a recipe for it"


def _text(path: Path, reference: YamlNode | None, document: Document) -> str | None:
    try:
        inside = None if reference is None or document.allow_outside else [document.root]
        return read_file(path, YAML_TEXT, within=inside).decode("utf-8-sig")
    except FileRefusedError as error:
        problem = error.problem
        hint = _neighbour(path) if os.path.isdir(path) else "a recipe is a small YAML file; name another file"
    except UnicodeDecodeError as error:
        problem, hint = f"is not UTF-8 text (byte {error.start})", "save the file as UTF-8"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        hint = _model_hint(path) or _neighbour(path)
    except ValueError:
        problem, hint = "is not a usable path", "remove the NUL character"
    message = f"recipe `{_label(path)}` {problem}"
    if reference is not None:
        document.findings.append(diagnostic_at("MM121", message, reference.span, path="extends", hint=hint))
    else:
        document.findings.append(Diagnostic("MM100", message, file=_label(path), hint=hint))
    return None


def _neighbour(path: Path) -> str:
    if os.path.isdir(path):
        recipe = recipe_next_to(path)
        return (
            "name a recipe file, such as a .yaml file in that directory"
            if recipe is None
            else f"did you mean `{recipe}`?"
        )
    try:
        names = [
            item.name for item in entries(path.parent) if item.suffix in SUFFIXES and item.name != path.name
        ]
    except (OSError, ValueError, FileRefusedError):
        return "check the path"
    near = nearest(path.name, names, cutoff=0.8)
    return f"did you mean `{path.parent / near}`?" if near else "check the path"


def _label(path: Path) -> str:
    try:
        relative = os.path.relpath(path)
    except ValueError:
        relative = ".."
    return printable(str(path) if relative.startswith("..") else relative)
