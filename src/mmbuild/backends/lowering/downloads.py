"""The action that fetches a source of a variant, the same for every backend."""

from __future__ import annotations

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import estimate, step_params
from mmbuild.backends.lowering.blame import blaming
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.registry import steps
from mmbuild.models.families import family
from mmbuild.models.sources.config import parse_source
from mmbuild.models.sources.resolve import identify
from mmbuild.models.validation.integrity import require_files
from mmbuild.schema.resolved import ResolvedRecipe

_BYTES_PER_SECOND = 50e6


def download(variant: ResolvedRecipe, name: str, size: int, context: PlanContext) -> Action:
    """The action that fetches a source, or refers to it if it is a local directory.

    Args:
        variant: The recipe.
        name: The source, ``model`` or ``vision``.
        size: Estimated size of its weights, bytes.
        context: Inputs besides the recipe.

    Raises:
        MmbuildError: The source cannot be identified; a SourceError says which keys name it.
    """
    model = variant.recipe.model
    source = model if name == "model" else model.vision
    assert source is not None
    directories = family(variant.facts.family).TRAITS.directories
    if parse_source(source.source).kind == "directory":
        directory = variant.root / source.source
        require_files(directory, name, len(variant.configs), variant.facts.directories)
    key = "model" if name == "model" else "model.vision"
    with blaming(f"{key}.revision", f"{key}.source"):
        identity = identify(
            source.source,
            source.revision,
            variant.root,
            config=variant.configs[name],
            digest=context.digest,
            directories=directories,
            offline=context.offline,
            pins=context.pins,
            places=variant.places,
        )
    planned = step_params.download(variant.facts, name, variant.configs, directories)
    disk = 0 if identity.kind == "path" else size
    return make_action(
        label=f"{variant.name}/{'download' if name == 'model' else f'download-{name}'}",
        step="download",
        version=steps()["download"].version,
        params={**identity.params, **planned},
        sources=identity.sources,
        locators=identity.locators,
        resources=Resources(
            memory=estimate.DOWNLOAD_MEMORY,
            disk=disk,
            download=disk if identity.kind == "hf" else 0,
            seconds=disk / _BYTES_PER_SECOND,
        ),
    )
