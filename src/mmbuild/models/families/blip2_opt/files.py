"""Files of BLIP-2 with OPT."""

from __future__ import annotations

from mmbuild.models.families.facts import Config
from mmbuild.models.families.shared import blip2_files
from mmbuild.models.files.expected_files import ExpectedFiles


def expected(config: Config, vision: Config | None = None) -> ExpectedFiles:
    """See :class:`~mmbuild.models.files.expected_files.ExpectedFiles`."""
    return blip2_files.expected(config, vision, "hidden_size")
