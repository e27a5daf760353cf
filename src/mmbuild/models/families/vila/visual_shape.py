"""What VILA's visual side is built from."""

from __future__ import annotations

from typing import Any

from mmbuild.models.families.facts import Config
from mmbuild.models.families.shared.towers import tower_keys
from mmbuild.models.families.vila import layout


def shape(config: Config, vision: Config | None = None) -> dict[str, Any]:
    """The parts of a VILA ``config.json`` that ``visual.make`` takes; the tower ends with the selected layer."""
    read = layout.read(config, vision)
    layers = read.layer % (read.tower["num_hidden_layers"] + 1)
    return {
        "tower": tower_keys(read.tower, num_hidden_layers=layers),
        "first_token": read.feature != "patch",
        "projector": {"kind": read.projector, "hidden_size": read.text["hidden_size"]},
    }
