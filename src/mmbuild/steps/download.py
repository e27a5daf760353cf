"""Step ``download``: a whole, checked model directory.

Files of a user's directory are symbolic links to them: referenced, not copied. Hub files and random weights
are real files.
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
from mmbuild.models.sources.integrity import check_model
from mmbuild.models.sources.resolve import MODEL, source_files


def run(context: StepContext) -> None:
    """Fill ``out`` with config, weights, tokenizer and processor.

    Params: ``kind`` (``path``, ``hf``, ``dummy``) and what else :func:`mmbuild.models.sources.resolve.identify` gave;
    ``family``, ``source`` (``model`` or ``vision``), ``directories``, ``configs`` and ``facts`` as
    :func:`mmbuild.models.sources.integrity.check_model` takes them. Locators: ``model``, a directory, and the
    ``places`` that its links may lead to, or ``recorded``, a model's name.

    Raises:
        SourceError: The source cannot be had, or a file is missing, truncated, a pointer or not what the hub says.
        FileRefusedError: MM745, a file is not a regular one; MM747, a link leaves the places that may be read.
        FamilyError: ``config.json`` is of another family.
        CheckpointError: A shard of the index is missing, or a pickle holds more than tensors.
    """
    params = context.params
    _KINDS[params["kind"]](context)
    context.progress("checking", None)
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
        # The real file: a link in the user's directory (the hub's cache is made of them) may go away.
        os.symlink(real_path(directory / name, places), context.out / name)


def _from_hub(context: StepContext) -> None:
    from mmbuild.models.sources.hub import download

    params = context.params
    if params["commit"] is None:
        raise SourceError(
            f"the commit of `{params['repo']}` at `{params['revision']}` was not known when this was planned offline",
            code="MM422",
            hint="Plan without --offline, or write the commit into model.revision",
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
        raise SourceError(
            "config.json changed after it was planned", code="MM413", hint="Plan and apply again"
        )
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
