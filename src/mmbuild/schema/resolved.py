"""A recipe that is ready for planning: the result of :mod:`mmbuild.pipeline.load`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.yaml_nodes import YamlNode
from mmbuild.models.families.facts import Derivation, ModelFacts
from mmbuild.models.sources.allowed_places import Places
from mmbuild.schema.model import Recipe


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """One variant of a recipe, ready for planning.

    Attributes:
        name: Unique name: the recipe's name, plus a suffix such as ``-int8`` from the matrix.
        path: The recipe file.
        root: Project root that paths are confined to.
        recipe: The recipe with derived numbers filled in and local paths made absolute.
        facts: Facts from the model's config.
        derivations: Derived numbers with their arithmetic.
        configs: ``config.json`` of each source, unmodified, by ``model`` and ``vision``.
        places: Directories that the files of its models may be in after resolving links; None: anywhere.
        node: The variant's values from files, matrix and ``--set``, with their source locations.
    """

    name: str
    path: Path
    root: Path
    recipe: Recipe
    facts: ModelFacts
    derivations: tuple[Derivation, ...]
    configs: Mapping[str, Mapping[str, Any]]
    node: YamlNode | None = field(default=None, compare=False, repr=False)
    places: Places | None = field(default=None, compare=False)
