"""Files of BLIP-2 with T5."""

from __future__ import annotations

from mmbuild.families.base import Config
from mmbuild.families.shared import blip2_files
from mmbuild.models.expected import ExpectedFiles


def expected(config: Config, vision: Config | None = None) -> ExpectedFiles:
    """See :class:`~mmbuild.models.expected.ExpectedFiles`."""
    return blip2_files.expected(config, vision, "d_model")
