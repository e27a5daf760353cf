"""What goes wrong in the verbs for CI."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class CiError(MmbuildError):
    """Recipes, revisions or jobs that cannot be told to a CI service."""
