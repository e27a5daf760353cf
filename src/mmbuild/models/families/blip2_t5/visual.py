"""The visual side, BLIP-2's own: see :mod:`mmbuild.models.families.shared.blip2_visual`."""

from __future__ import annotations

from mmbuild.models.families.shared.blip2_visual import canonical, make

__all__ = ["canonical", "make"]
