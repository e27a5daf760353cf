"""Errors about models: files, sources, weights, checkpoints and engines."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class EngineError(MmbuildError):
    """An engine cannot be built, loaded or run on the given input."""


class ModelFilesError(MmbuildError):
    """Files of a model directory contradict each other, or no engine can be built from them."""


class SourceError(MmbuildError):
    """A source is unavailable or has unexpected content.

    Attributes:
        blame: Keys of the recipe that name the source, the most likely cause first, where a recipe is planned.
    """

    blame: tuple[str, ...] = ()


class CheckpointError(MmbuildError):
    """Weights cannot be converted or read; the message names the tensor and the file."""
