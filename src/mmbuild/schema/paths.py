"""Makes local paths in a recipe absolute and confines them to the project root.

A path is relative to the file that states it, so a base recipe means the same wherever it is extended. Paths from
``--set`` are relative to the current directory and may be anywhere. ``~`` is the home directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.errors import MmbuildError
from mmbuild.base.yaml_nodes import YamlNode, diagnostic_at, dotted, find
from mmbuild.models.sources.allowed_places import hub_cache
from mmbuild.models.sources.config import parse_source
from mmbuild.schema.files import is_confined
from mmbuild.schema.model import Calibration, Model, Recipe, Verify

Key = tuple[str | int, ...]


def resolve_paths(
    recipe: Recipe, node: YamlNode, root: Path, allow_outside: bool
) -> tuple[Recipe, list[Diagnostic]]:
    """Return ``recipe`` with absolute paths, and a diagnostic for each path outside ``root``.

    Args:
        recipe: A validated recipe.
        node: Its source, which knows the file that states each path.
        root: Project root.
        allow_outside: Accept paths outside it.
    """
    paths = _Paths(node, root, allow_outside)
    engine, quantization = recipe.engine, recipe.engine.quantization
    if quantization.calibration is not None:
        calibration = _calibration(quantization.calibration, paths)
        quantization = quantization.model_copy(update={"calibration": calibration})
        engine = engine.model_copy(update={"quantization": quantization})
    verify = _verify(recipe.verify, paths) if recipe.verify is not None else None
    update = {"model": _model(recipe.model, paths), "engine": engine, "verify": verify}
    return recipe.model_copy(update=update), paths.findings


@dataclass(slots=True)
class _Paths:
    """Resolves paths and collects diagnostics."""

    node: YamlNode
    root: Path
    allow_outside: bool
    findings: list[Diagnostic] = field(default_factory=list)

    def absolute(self, text: str, *key: str | int) -> str:
        at, _ = find(self.node, key)
        source = at.span.source
        full = Path(os.path.normpath(Path(source.directory) / os.path.expanduser(text)))
        if not (
            self.allow_outside or source.trusted or is_confined(full, self.root) or _is_cached(full, key)
        ):
            self.findings.append(_outside(text, at, self.root, key))
        return str(full)

    def source(self, text: str, *key: str | int) -> str:
        try:
            ref = parse_source(text)
        except MmbuildError:
            return text  # reported when the model's config is read
        if ref.kind == "directory":
            return self.absolute(ref.value, *key)
        if ref.kind == "dummy-directory":
            return f"dummy://{self.absolute(ref.value, *key)}"
        return text


def _is_cached(path: Path, key: Key) -> bool:
    """Whether a model directory of the project is a link to a snapshot in the hub cache."""
    return (
        key[-1] == "source"
        and hub_cache(path) is not None
        and "snapshots" in Path(os.path.realpath(path)).parts
    )


def _model(model: Model, paths: _Paths) -> Model:
    vision = model.vision
    if vision is not None:
        source = paths.source(vision.source, "model", "vision", "source")
        vision = vision.model_copy(update={"source": source})
    source = paths.source(model.source, "model", "source")
    return model.model_copy(update={"source": source, "vision": vision})


def _verify(verify: Verify, paths: _Paths) -> Verify:
    images = tuple(
        paths.absolute(image, "verify", "images", index) for index, image in enumerate(verify.images)
    )
    return verify.model_copy(update={"images": images})


def _calibration(calibration: Calibration, paths: _Paths) -> Calibration:
    data = paths.source(calibration.data, "engine", "quantization", "calibration", "data")
    return calibration.model_copy(update={"data": data})


def _outside(text: str, at: YamlNode, root: Path, key: Key) -> Diagnostic:
    return diagnostic_at(
        "MM122",
        f"`{text}` is outside the project root {root}",
        at.span,
        path=dotted(key),
        hint="move it into the project, write an empty mmbuild.yaml where the project begins, pass it with --set, or "
        "allow it with --allow-outside",
    )
