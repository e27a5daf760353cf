"""Errors of models: their files, sources, weights and checkpoints, and engines."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class EngineError(MmbuildError):
    """An engine that cannot be built, loaded or run on the given input."""


class ModelFilesError(MmbuildError):
    """Files of a model directory that contradict each other, or that no engine can be built from."""


class SourceError(MmbuildError):
    """A source that cannot be had, or is not what it should be."""


class CheckpointError(MmbuildError):
    """Weights that cannot be converted or read; the message names the tensor and the file."""
