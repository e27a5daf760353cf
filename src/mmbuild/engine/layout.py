"""The files of an engine directory, and the description that heads it.

``engine.json`` says everything that loading checks or needs; it is written by the assemble step. Nothing here
imports torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.errors import MmbuildError

VERSION = 2
DESCRIPTION = "engine.json"
LLM, VISUAL, PROCESSOR = "llm", "visual", "processor"


def packages(llm: Mapping[str, Any]) -> tuple[str, ...]:
    """The packages of an LLM engine, without ``.pt2``: one that starts a batch, and those that decode.

    ``decode`` is compiled for one sequence, which reads stored integers as they are; several sequences at once have a
    package of their own.

    Args:
        llm: ``EngineConfig`` as JSON.
    """
    start = "encode" if llm["llm"]["cross_attention"] else "prefill"
    several = llm["max_batch_size"] * llm["max_beam_width"] > 1
    return (start, "decode", "decode_batch") if several else (start, "decode")


def components(llm: Mapping[str, Any]) -> tuple[str, ...]:
    """Directories below ``llm`` that hold a checkpoint's rank files: itself, or an encoder's and a decoder's."""
    if not llm["llm"]["cross_attention"]:
        return (".",)
    return ("encoder", "decoder") if llm["encoder"] else ("decoder",)


class LayoutError(MmbuildError):
    """A directory that is no engine directory, or one of another version."""


@dataclass(frozen=True, slots=True)
class Description:
    """What ``engine.json`` holds.

    Attributes:
        family: The model's family.
        backend: ``torch``.
        llm: ``EngineConfig`` as JSON.
        visual: ``VisualConfig`` as JSON.
        target: ``{"device", "sm", "isa"}`` the packages are compiled for.
        toolchain: Versions that shaped the packages; loading checks ``torch``.
        image_token_id: Placeholder id in encoded prompts; None where prompts name no images.
        eos_token_ids: Ids that end an answer.
        version: Of this format.
        generation_settings: Fields of the model's generation_config.json that the engine obeys, by name. Engines of
            earlier builds have none.
        settings_not_applied: Those that would change answers, and that the engine does not apply.
        obeys_generation_config: False: the recipe ignores the model's generation_config.json but for end tokens.
    """

    family: str
    backend: str
    llm: Mapping[str, Any]
    visual: Mapping[str, Any]
    target: Mapping[str, Any]
    toolchain: Mapping[str, str]
    image_token_id: int | None
    eos_token_ids: tuple[int, ...]
    version: int = VERSION
    generation_settings: Mapping[str, Any] = field(default_factory=dict)
    settings_not_applied: Mapping[str, Any] = field(default_factory=dict)
    obeys_generation_config: bool = True


def write(directory: Path, description: Description) -> None:
    """Write ``engine.json``."""
    text = json.dumps(dataclasses.asdict(description), indent=2, sort_keys=True)
    (directory / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> Description:
    """Read ``engine.json``.

    Raises:
        LayoutError: There is none, or it is of another version or damaged.
    """
    path = directory / DESCRIPTION
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        from mmbuild.engine.mistaken import instead_of_engine

        what, hint = instead_of_engine(Path(directory))
        raise LayoutError(f"`{directory}` {what}", code="MM540", hint=hint) from None
    except (OSError, ValueError) as error:
        raise LayoutError(f"`{path}` cannot be read: {error}", code="MM541") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, dict) else None
        raise LayoutError(
            f"`{path}` is of version {found}, and this mmbuild reads version {VERSION}",
            code="MM541",
            hint="Apply its recipe again with this mmbuild",
        )
    try:
        return Description(**{**data, "eos_token_ids": tuple(data["eos_token_ids"])})
    except (KeyError, TypeError) as error:
        raise LayoutError(
            f"`{path}` is damaged: {error}", code="MM541", hint="Apply its recipe again"
        ) from error
