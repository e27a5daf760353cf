"""Step ``download``: produces a complete, validated model directory.

Files of a local model directory are linked (symbolic links), not copied. Hub files and random weights are regular
files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mmbuild.base.canonical_json import hash_json
from mmbuild.base.files import read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import SourceError
from mmbuild.models.families import part
from mmbuild.models.sources.allowed_places import from_locators, real_path
from mmbuild.models.sources.config import read_config
from mmbuild.models.sources.resolve import MODEL, source_files
from mmbuild.models.validation.integrity import check_model


def run(context: StepContext) -> None:
    """Write config, weights, tokenizer and processor to ``out``.

    Params: ``kind`` (``path``, ``hf``, ``dummy``) and the other fields that
    :func:`mmbuild.models.sources.resolve.identify` returns; ``family``, ``source`` (``model`` or ``vision``),
    ``directories``, ``configs`` and ``facts`` as :func:`mmbuild.models.validation.integrity.check_model` takes them.
    Locators: ``model``, a directory, with the allowed ``places`` of its link targets, or ``recorded``, a model name.

    Raises:
        SourceError: The source is unavailable, or a file is missing, truncated, an LFS pointer or differs from the
            hub's digest.
        FileRefusedError: MM745, not a regular file; MM747, a link leads outside the allowed directories.
        FamilyError: ``config.json`` is of another family.
        CheckpointError: A shard of the index is missing, or a pickle contains more than tensors.
    """
    params = context.params
    _KINDS[params["kind"]](context)
    context.progress("checking that the files agree and are complete", None)
    check_model(
        context.out,
        params["family"],
        params["source"],
        params["configs"],
        params["facts"],
        params["directories"],
    )


def _from_path(context: StepContext) -> None:
    directory, places = Path(context.locators[MODEL]), from_locators(context.locators)
    for name in source_files(directory, weights=True, directories=context.params["directories"]):
        (context.out / name).parent.mkdir(exist_ok=True)
        # Link to the real file: a link in the user's directory (the hub cache consists of them) may disappear.
        os.symlink(real_path(directory / name, places), context.out / name)


def _from_hub(context: StepContext) -> None:
    from mmbuild.models.sources.hub import download

    params = context.params
    if params["commit"] is None:
        key = "model.vision.revision" if params["source"] == "vision" else "model.revision"
        raise SourceError(
            f"the commit of `{params['repo']}` at `{params['revision']}` was unknown when planning offline",
            code="MM422",
            hint=f"plan without --offline, or write the commit into {key}",
        )
    download(params["repo"], params["commit"], context.out, context.progress, params["directories"])


def _random(context: StepContext) -> None:
    from mmbuild.models.sources import random_weights

    params, locators = context.params, context.locators
    if "recorded" in locators:
        config = read_config(f"dummy://{locators['recorded']}", None, Path()).config
    else:
        config = read_object(Path(locators[MODEL], "config.json"), MODEL_JSON, within=from_locators(locators))
    if hash_json(config) != params["config"]:
        raise SourceError("config.json changed after planning", code="MM413", hint="plan and apply again")
    if MODEL in locators:
        random_weights.copy_small_files(
            Path(locators[MODEL]), context.out, params["directories"], from_locators(locators)
        )
    else:
        part(params["family"], "processor").write_stand_in(config, context.out)
    shapes = part(params["family"], "reference").tensor_shapes(config)
    random_weights.write_weights(
        config, shapes, context.out, params["seed"], params["dtype"], context.progress
    )


_KINDS: Mapping[str, Callable[[StepContext], None]] = {
    "path": _from_path,
    "hf": _from_hub,
    "dummy": _random,
}
