"""Whether a model directory is whole and is the model that the recipe means.

Reads headers, never weights, so a wrong download is found before anything is built on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_beginning, read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.base.safetensors_header import HeaderProblemError, read_tensor_header
from mmbuild.models.errors import SourceError
from mmbuild.models.families import ModelFacts, family
from mmbuild.models.sources import hf_layout
from mmbuild.models.sources.resolve import source_files

_LFS = b"version https://git-lfs.github.com/spec/"


def check_model(
    model: Path,
    family_name: str,
    source: str,
    configs: Mapping[str, Mapping[str, Any]],
    planned: Mapping[str, Any],
    directories: Sequence[str] = (),
) -> None:
    """Check every needed file of a model directory.

    Args:
        model: The directory.
        family_name: The family that ``config.json`` must be of.
        source: Which source of the recipe the directory is: ``model`` or ``vision``.
        configs: ``config.json`` of all sources as planned, by source.
        planned: :class:`~mmbuild.models.families.facts.ModelFacts` that the build was planned with, as JSON.
        directories: Directories below it that hold files of the model.

    Raises:
        SourceError: A file is missing, truncated, a git-LFS pointer or of a wrong kind.
        FamilyError: ``config.json`` is of another family.
        CheckpointError: A shard of the index is missing, a pickle holds more than tensors, or weights are not of the
            shapes that ``config.json`` states.
        MmbuildError: MM730 to MM741, files contradict each other.
    """
    for name in source_files(model, weights=True, directories=directories):
        _not_a_pointer(model / name)
    facts, found = _check_config(model, family_name, source, configs, planned)
    require_files(model, source, len(configs), planned["directories"])
    _check_weights(model)
    _check_agreement(model, family_name, source, facts, found)


def require_files(model: Path, source: str, sources: int, directories: Sequence[str] = ()) -> None:
    """Look for every part of a model by the names of its files; contents are not read, but for an index of shards.

    Args:
        model: The directory.
        source: ``model`` or ``vision``.
        sources: How many sources the recipe has.
        directories: Directories below ``model`` that a model of this layout is made of, each with weights.

    Raises:
        SourceError: MM402, a part is missing.
        CheckpointError: MM402 or MM405, weights are missing.
    """
    # Late: names are light, but the checkpoint package is not needed by those who only plan hub models.
    from mmbuild.models.checkpoint.hf_weights import own_weight_files, weight_files

    names = source_files(model, weights=True, directories=directories)
    _check_small_files(model, names, _PARTS[source, sources])
    if not own_weight_files(model):
        for directory in directories or ("",):
            weight_files(model / directory)


# What a source must hold beside weights, by its name and the number of sources.
_PARTS: Mapping[tuple[str, int], tuple[tuple[str, tuple[str, ...]], ...]] = {
    ("model", 1): (
        ("tokenizer.json", hf_layout.TOKENIZER_CORES),
        ("preprocessor_config.json", hf_layout.PROCESSOR),
    ),
    ("model", 2): (("tokenizer.json", hf_layout.TOKENIZER_CORES),),
    ("vision", 2): (("preprocessor_config.json", hf_layout.PROCESSOR),),
}


def read_header(path: Path) -> Mapping[str, Any]:
    """The header of a safetensors file, after comparing the sizes it states with the file's.

    Format: https://huggingface.co/docs/safetensors.

    Raises:
        SourceError: MM403, the file is truncated, or is no safetensors file.
    """
    try:
        tensors = read_tensor_header(path)
    except FileRefusedError as error:
        raise _damaged(path, f"it {error.problem}") from None
    except HeaderProblemError as error:
        raise _damaged(path, str(error)) from None
    return {
        name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": list(tensor.offsets)}
        for name, tensor in tensors.items()
    }


def _damaged(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"`{display(path)}` is truncated or damaged: {reason}",
        code="MM403",
        hint="Download the file again",
    )


def display(path: Path) -> str:
    """The user's own path of a file that a step sees through a link."""
    return os.path.realpath(path) if path.is_symlink() else str(path)


def _not_a_pointer(path: Path) -> None:
    if read_beginning(path, len(_LFS)) == _LFS:
        raise SourceError(
            f"`{display(path)}` is a git-LFS pointer, not the file itself",
            code="MM404",
            hint="Run `git lfs pull` in the model's repository",
        )


# The arithmetic says more than the number.
_CALLED = {"visual.derivation.arithmetic": "num_visual_features"}


def _check_config(
    model: Path,
    family_name: str,
    source: str,
    configs: Mapping[str, Mapping[str, Any]],
    planned: Mapping[str, Any],
) -> tuple[ModelFacts, Mapping[str, Mapping[str, Any]]]:
    """What ``config.json`` of the directory says, and the configs of all sources."""
    path = model / "config.json"
    try:
        config = read_object(path, MODEL_JSON)
    except FileNotFoundError:
        raise _missing(model, "config.json") from None
    except (OSError, FileRefusedError) as error:
        problem = getattr(error, "problem", "") or f"cannot be read: {error}"
        raise SourceError(
            f"`{display(path)}` {problem}", code="MM411", hint="Download the file again"
        ) from error
    found = {**configs, source: config}
    facts = family(family_name).facts(found["model"], found.get("vision"))
    plain = json.loads(json.dumps(asdict(facts)))
    # Late, with Jinja behind it: planning imports this module and checks nothing here.
    from mmbuild.models.files.consistency import differences

    for name, theirs, ours in differences(plain, json.loads(json.dumps(planned))):
        raise SourceError(
            f"`{display(path)}` makes {_CALLED.get(name, name)} {theirs}, and the build was planned with {ours}",
            code="MM412",
            hint="The model changed since it was planned, or its recorded config is not this model's: plan again "
            "with model.source set to a directory that holds this config.json",
        )
    return facts, found


def _check_agreement(
    model: Path,
    family_name: str,
    source: str,
    facts: ModelFacts,
    configs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse files that contradict each other; files go by their names in the model.

    Raises:
        MmbuildError: MM730 to MM741.
    """
    from mmbuild.models.files.checked_model import Model, Source
    from mmbuild.models.files.consistency import findings

    for item in findings(Model(family_name, facts, configs, {source: Source(model)})):
        message = item.error.message.replace(f"`{model}/", "`").replace(f"`{model}`", "the model")
        raise type(item.error)(message, code=item.error.code, hint=item.error.hint)


def _check_small_files(
    model: Path, names: Sequence[str], parts: Iterable[tuple[str, tuple[str, ...]]]
) -> None:
    present = {name.rpartition("/")[2] for name in names}
    for example, any_of in parts:
        if not present & set(any_of):
            raise _missing(model, example)


def _missing(model: Path, name: str) -> SourceError:
    return SourceError(
        f"the model has no `{name}`" + ("" if str(model) == "out" else f" in `{model}`"),
        code="MM402",
        hint="A model directory holds config.json, weights, tokenizer and processor in Hugging Face layout",
    )


def _check_weights(model: Path) -> None:
    # Late: the checkpoint package's names are light, its pickle reader imports torch.
    from mmbuild.models.checkpoint.hf_weights import open_weights, weight_files

    files = weight_files(model)
    for name in files:
        if name.endswith(".safetensors"):
            read_header(model / name)
    if any(not name.endswith(".safetensors") for name in files):
        with open_weights(model):
            pass
