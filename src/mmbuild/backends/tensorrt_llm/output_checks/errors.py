"""What is wrong with a product."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class ProductError(MmbuildError):
    """A file that a command should have left is missing, or says something else than the recipe."""
