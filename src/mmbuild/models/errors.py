"""Errors about the files of a model directory."""

from __future__ import annotations

from mmbuild.errors import MmbuildError


class ModelFilesError(MmbuildError):
    """Files of a model directory that contradict each other, or that no engine can be built from."""
