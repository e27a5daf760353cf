"""Checks that a model directory is complete and is the model that was planned.

Reads headers, never weights, so a wrong download is detected before anything is built from it.
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
from mmbuild.models.files import hf_layout
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
    """Check all required files of a model directory.

    Args:
        model: The directory.
        family_name: The required family of ``config.json``.
        source: The recipe's source that the directory is: ``model`` or ``vision``.
        configs: ``config.json`` of all sources as planned, by source.
        planned: :class:`~mmbuild.models.families.facts.ModelFacts` that the build was planned with, as JSON.
        directories: Subdirectories that contain files of the model.

    Raises:
        SourceError: A file is missing, truncated, a git-LFS pointer or of the wrong type.
        FamilyError: ``config.json`` is of another family.
        CheckpointError: A shard of the index is missing, a pickle contains more than tensors, or weights do not have
            the shapes from ``config.json``.
        MmbuildError: MM730 to MM741, files contradict each other.
    """
    for name in source_files(model, weights=True, directories=directories):
        _not_a_pointer(model / name)
    facts, found = _check_config(model, family_name, source, configs, planned)
    require_files(model, source, len(configs), planned["directories"])
    _check_weights(model)
    _check_agreement(model, family_name, source, facts, found)


def require_files(model: Path, source: str, sources: int, directories: Sequence[str] = ()) -> None:
    """Check that all parts of a model exist, by file names; reads only the index of shards.

    Args:
        model: The directory.
        source: ``model`` or ``vision``.
        sources: Number of sources in the recipe.
        directories: Subdirectories of ``model`` that the model consists of, each with weights.

    Raises:
        SourceError: MM402, a part is missing.
        CheckpointError: MM402 or MM405, weights are missing.
    """
    # Imported late: planning of hub models does not need the checkpoint package.
    from mmbuild.models.checkpoint.hf_weights import own_weight_files, weight_files

    names = source_files(model, weights=True, directories=directories)
    _check_small_files(model, names, _PARTS[source, sources])
    if not own_weight_files(model):
        for directory in directories or ("",):
            weight_files(model / directory)


# Required files of a source besides weights, by its name and the number of sources.
_PARTS: Mapping[tuple[str, int], tuple[tuple[str, tuple[str, ...]], ...]] = {
    ("model", 1): (
        ("tokenizer.json", hf_layout.TOKENIZER_CORES),
        ("preprocessor_config.json", hf_layout.PROCESSOR),
    ),
    ("model", 2): (("tokenizer.json", hf_layout.TOKENIZER_CORES),),
    ("vision", 2): (("preprocessor_config.json", hf_layout.PROCESSOR),),
}


def read_header(path: Path) -> Mapping[str, Any]:
    """The header of a safetensors file, after checking its sizes against the file's.

    Format: https://huggingface.co/docs/safetensors.

    Raises:
        SourceError: MM403, the file is truncated or is not a safetensors file.
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
        hint="download the file again",
    )


def display(path: Path) -> str:
    """The user's path of a file that a step sees through a link."""
    return os.path.realpath(path) if path.is_symlink() else str(path)


def _not_a_pointer(path: Path) -> None:
    if read_beginning(path, len(_LFS)) == _LFS:
        raise SourceError(
            f"`{display(path)}` is a git-LFS pointer, not the file itself",
            code="MM404",
            hint="run `git lfs pull` in the model's repository",
        )


# Show the arithmetic instead of the number.
_CALLED = {"visual.derivation.arithmetic": "num_visual_features"}


def _check_config(
    model: Path,
    family_name: str,
    source: str,
    configs: Mapping[str, Mapping[str, Any]],
    planned: Mapping[str, Any],
) -> tuple[ModelFacts, Mapping[str, Mapping[str, Any]]]:
    """Facts from the directory's ``config.json``, and the configs of all sources."""
    path = model / "config.json"
    try:
        config = read_object(path, MODEL_JSON)
    except FileNotFoundError:
        raise _missing(model, "config.json") from None
    except (OSError, FileRefusedError) as error:
        problem = getattr(error, "problem", "") or f"cannot be read: {error}"
        raise SourceError(
            f"`{display(path)}` {problem}", code="MM411", hint="download the file again"
        ) from error
    found = {**configs, source: config}
    facts = family(family_name).facts(found["model"], found.get("vision"))
    plain = json.loads(json.dumps(asdict(facts)))
    # Imported late because it imports Jinja, which planning does not need.
    from mmbuild.models.validation.consistency import differences

    for name, theirs, ours in differences(plain, json.loads(json.dumps(planned))):
        raise SourceError(
            f"`{display(path)}` implies {_CALLED.get(name, name)} {theirs}, but the build was planned with {ours}",
            code="MM412",
            hint="the model changed since planning, or its recorded config is of another model: plan again "
            "with model.source set to a directory with this config.json",
        )
    return facts, found


def _check_agreement(
    model: Path,
    family_name: str,
    source: str,
    facts: ModelFacts,
    configs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Check that files do not contradict each other; messages name files relative to the model.

    Raises:
        MmbuildError: MM730 to MM741.
    """
    from mmbuild.models.validation.checked_model import Model, Source
    from mmbuild.models.validation.consistency import findings

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
        hint="a model directory needs config.json, weights, tokenizer and processor in Hugging Face layout",
    )


def _check_weights(model: Path) -> None:
    # Imported late: the pickle reader imports torch.
    from mmbuild.models.checkpoint.hf_weights import open_weights, weight_files

    files = weight_files(model)
    for name in files:
        if name.endswith(".safetensors"):
            read_header(model / name)
    if any(not name.endswith(".safetensors") for name in files):
        with open_weights(model):
            pass
