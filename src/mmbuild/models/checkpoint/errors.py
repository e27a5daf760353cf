"""Errors of weights and checkpoints."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class CheckpointError(MmbuildError):
    """Weights that cannot be converted or read; the message names the tensor and the file."""
