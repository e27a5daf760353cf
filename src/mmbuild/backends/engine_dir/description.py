"""The files of an engine directory, and its description ``engine.json``.

``engine.json`` holds all that loading needs or checks. The assemble step writes it. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir import fields
from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_JSON

VERSION = 6
# Of older versions everything can be read except a torch engine's packages: an LLM's had other inputs before 3 and 5,
# a visual engine was one package before 4, and kernels did not wait for each other before 6.
_READABLE = (2, 3, 4, 5, VERSION)
DESCRIPTION = "engine.json"
LLM, VISUAL, PROCESSOR = "llm", "visual", "processor"
KERNELS = "kernels"
"""Directory beside packages for CUDA, with the kernels that they load."""

_AGAIN = "apply its recipe again"
_SHOWN = 40


def packages(llm: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an LLM engine's packages, without ``.pt2``: embedding, layers and head, and an encoder's.

    A ``layer_*`` package serves every layer. Those of ``decode`` and ``head`` are compiled for one sequence and read
    stored integers directly; several sequences have their own.

    Args:
        llm: ``EngineConfig`` as JSON.
    """
    encoder = ("encoder_embed", "encoder_layer", "encoder_finish") if llm["encoder"] else ()
    start = (*encoder, "cross_fill") if llm["llm"]["cross_attention"] else ("layer_prefill", "layer_chunk")
    several = llm["max_batch_size"] * llm["max_beam_width"] > 1
    return (
        *start,
        "embed",
        "layer_decode",
        "head",
        *(("layer_decode_batch", "head_batch") if several else ()),
    )


def components(llm: Mapping[str, Any]) -> tuple[str, ...]:
    """Subdirectories of ``llm`` with rank files: ``.``, or those of encoder and decoder."""
    if not llm["llm"]["cross_attention"]:
        return (".",)
    return ("encoder", "decoder") if llm["encoder"] else ("decoder",)


class LayoutError(MmbuildError):
    """The directory is not an engine directory, or has another format version."""


@dataclass(frozen=True, slots=True)
class Description:
    """Content of ``engine.json``.

    Attributes:
        family: The model's family.
        backend: ``torch``.
        llm: ``EngineConfig`` as JSON.
        visual: ``VisualConfig`` as JSON.
        target: ``{"device", "sm", "isa"}`` that the packages are compiled for.
        toolchain: Versions of the build tools; loading checks ``torch``.
        image_token_id: Placeholder id in encoded prompts; None if prompts contain no images.
        eos_token_ids: Ids that end an answer.
        version: Version of this format.
        generation_settings: Fields of the model's generation_config.json that the engine applies, by name. Empty in
            earlier builds.
        settings_not_applied: Fields that would change answers but are not applied.
        obeys_generation_config: False if the recipe ignores the model's generation_config.json except end tokens.
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


def read(directory: Path, *, whole_llm: bool = True) -> Description:
    """Read ``engine.json`` and validate every field.

    Args:
        directory: The engine directory.
        whole_llm: False accepts an ``llm`` with only the number of ranks.

    Raises:
        LayoutError: MM540, there is none; MM541, it has another version or is damaged.
    """
    path = directory / DESCRIPTION
    try:
        data = read_object(path, ENGINE_JSON)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_engine(directory) from None
    except (FileRefusedError, OSError) as error:
        problem = (
            error.problem if isinstance(error, FileRefusedError) else f"cannot be read: {error.strerror}"
        )
        raise LayoutError(f"`{path}` {problem}", code="MM541", hint=_AGAIN) from None
    if data.get("version") not in _READABLE or type(data["version"]) is not int:
        raise LayoutError(
            f"`{path}` has version {_short(data.get('version'))}, but this mmbuild reads version {VERSION}",
            code="MM541",
            hint="apply its recipe again with this mmbuild",
        )
    damage = fields.description(data, whole_llm=whole_llm)
    if damage is not None:
        raise LayoutError(f"`{path}` is damaged: {damage}", code="MM541", hint=_AGAIN)
    return Description(**{**data, "eos_token_ids": tuple(data["eos_token_ids"])})


def require_current(directory: Path, description: Description) -> None:
    """Check that the packages of a torch engine are of this version's form.

    Raises:
        LayoutError: MM541.
    """
    if description.version != VERSION:
        raise LayoutError(
            f"the packages of `{directory}` are of an earlier mmbuild, and this one cannot load them",
            code="MM541",
            hint="run `mmbuild apply` with its recipe: it compiles new packages and uses the weights again",
        )


def require_description(directory: Path) -> None:
    """Check that a directory has an ``engine.json``.

    Raises:
        LayoutError: MM540; the message says what the directory is instead.
    """
    if not os.path.lexists(directory / DESCRIPTION):
        raise _no_engine(directory)


def require_ranks(directory: Path, description: Description) -> None:
    """Check that the weights of every rank exist, before starting a process for each of them.

    Raises:
        LayoutError: MM787.
    """
    ranks = description.llm.get("tensor_parallel", 1)
    if description.backend != "torch" or ranks == 1:
        return
    for part in components(description.llm):
        for rank in range(ranks):
            path = directory / LLM / part / f"rank{rank}.safetensors"
            if not os.path.lexists(path):
                raise LayoutError(
                    f"`{path}` is missing; according to `{directory / DESCRIPTION}` the engine is split over "
                    f"{ranks:,} ranks",
                    code="MM787",
                    hint=_AGAIN,
                )


def _no_engine(directory: Path) -> LayoutError:
    from mmbuild.backends.engine_dir.wrong_directory import instead_of_engine

    problem, hint = instead_of_engine(Path(directory))
    return LayoutError(f"`{directory}` {problem}", code="MM540", hint=hint)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
