"""Errors of sources."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class SourceError(MmbuildError):
    """A source that cannot be had, or is not what it should be."""
