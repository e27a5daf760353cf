"""Errors of models and engines."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError


class EngineError(MmbuildError):
    """An engine that cannot be built, loaded or run on the given input."""


class ModelFilesError(MmbuildError):
    """Files of a model directory that contradict each other, or that no engine can be built from."""
