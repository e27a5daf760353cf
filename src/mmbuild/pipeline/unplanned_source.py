"""A source that cannot be identified while its recipe is planned, as a finding in that recipe."""

from __future__ import annotations

from mmbuild.base.diagnostics import RecipeError, Violation
from mmbuild.base.yaml_nodes import YamlNode
from mmbuild.models.errors import SourceError
from mmbuild.models.sources.hub_errors import UnreachableError
from mmbuild.pipeline.load import to_diagnostic


def unplanned(node: YamlNode, error: SourceError) -> RecipeError:
    """``error``, which blames keys of the recipe ``node``, as a finding at the first of these that it has."""
    hint = error.hint
    if isinstance(error, UnreachableError):
        # Only branches and tags are looked up: with a commit the same recipe is planned without a network.
        hint = (
            f"write a commit into {error.blame[0]}, or plan with `--offline`; otherwise check the network and "
            "HF_ENDPOINT"
        )
    return RecipeError([to_diagnostic(node, Violation(error.code, error.blame, error.message, hint))])
