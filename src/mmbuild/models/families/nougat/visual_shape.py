"""What Nougat's visual side is built from."""

from __future__ import annotations

from typing import Any

from mmbuild.models.families.facts import Config
from mmbuild.models.families.nougat import sections
from mmbuild.models.families.shared.config_reading import pair
from mmbuild.models.families.shared.towers import tower_keys


def shape(config: Config, vision: Config | None = None) -> dict[str, Any]:  # noqa: ARG001 (one source has it all)
    """The parts of a Nougat ``config.json`` that ``visual.make`` takes."""
    read = sections(config)
    sides = {key: list(pair("encoder.", key, read.encoder[key])) for key in ("image_size", "patch_size")}
    return {"tower": tower_keys(read.encoder, **sides), "hidden_size": read.decoder["d_model"]}
