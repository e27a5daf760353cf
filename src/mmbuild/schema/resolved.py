"""A recipe ready to be planned: what :mod:`mmbuild.pipeline.load` makes, and what every later part reads."""

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
    """One variant, ready to be planned.

    Attributes:
        name: Unique: the recipe's name, plus a suffix such as ``-int8`` from the matrix.
        path: The recipe file.
        root: Project root that paths are confined to.
        recipe: The recipe with every derived number filled in and every local path made absolute.
        facts: What the model's config says.
        derivations: Every number that follows, with its arithmetic.
        configs: ``config.json`` of each source as it stands, by ``model`` and ``vision``.
        places: Directories that the files of its models may be in, links followed; None: anywhere.
        node: What the recipe's files, the matrix and ``--set`` say of this variant, each value with its place.
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
