"""What BLIP-2's visual side is built from."""

from __future__ import annotations

from typing import Any

from mmbuild.models.families import blip2
from mmbuild.models.families.facts import Config
from mmbuild.models.families.shared.towers import tower_keys


def shape(config: Config, vision: Config | None = None) -> dict[str, Any]:
    """The parts of a BLIP-2 ``config.json``, or of that of the second source, that ``visual.make`` takes."""
    language = blip2.language_model(config)
    read = blip2.parts(config, vision, language.NAME, language.NAME.removeprefix("blip2-"))
    return {
        "tower": tower_keys(read.tower),
        "qformer": tower_keys(read.qformer),
        "num_query_tokens": read.blip2["num_query_tokens"],
        "hidden_size": read.text[language.WIDTH],
    }
