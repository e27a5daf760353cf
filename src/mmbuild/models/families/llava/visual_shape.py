"""What LLaVA's visual side is built from."""

from __future__ import annotations

from typing import Any

from mmbuild.models.families.facts import Config
from mmbuild.models.families.llava import sections
from mmbuild.models.families.shared.towers import tower_keys


def shape(config: Config, vision: Config | None = None) -> dict[str, Any]:  # noqa: ARG001 (one source has it all)
    """The parts of a LLaVA ``config.json`` that ``visual.make`` takes.

    ``states`` are the selected hidden states of the tower, 0 for its embeddings; the tower has no layers after them.
    """
    read = sections(config)
    selected = read.root["vision_feature_layer"]
    several = isinstance(selected, list | tuple)
    states = [
        layer % (read.tower["num_hidden_layers"] + 1) for layer in (selected if several else [selected])
    ]
    return {
        "tower": tower_keys(read.tower, num_hidden_layers=max(states)),
        "states": states,
        "class_token": read.root["vision_feature_select_strategy"] != "default",
        "projector": {
            "hidden_size": read.text["hidden_size"],
            "hidden_act": read.root["projector_hidden_act"],
            "bias": read.root["multimodal_projector_bias"],
        },
    }
