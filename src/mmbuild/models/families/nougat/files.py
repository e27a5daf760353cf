"""Nougat's files: one directory, no image token, no chat template."""

from __future__ import annotations

from mmbuild.models.families.facts import Config
from mmbuild.models.files.expected_files import ExpectedFiles


def expected(config: Config, vision: Config | None = None) -> ExpectedFiles:  # noqa: ARG001 (one source has it all)
    """See :class:`~mmbuild.models.files.expected_files.ExpectedFiles`."""
    return ExpectedFiles(
        vocab_size="decoder.vocab_size",
        hidden_size="decoder.d_model",
        image_size="encoder.image_size",
        image_class="Nougat",
        whole_processor=True,
    )
