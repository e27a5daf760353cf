"""Rejects adapters: small weights that are usable only with a base model."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from mmbuild.base.files import entries
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files import hf_layout
from mmbuild.models.files.small_files import SmallFileError, display, read_json

CONFIG = "adapter_config.json"
# PEFT's files, as named by `PeftModel.save_pretrained`.
_PEFT = (CONFIG, "adapter_model.safetensors", "adapter_model.bin")
# Parts that LLaVA's training code saves instead of a model.
_PARTS = ("non_lora_trainables.bin", "mm_projector.bin")


def require_merged(directory: Path, *, has_weights: bool) -> None:
    """Check that a directory contains no adapter, alone or next to full weights.

    A projector of LLaVA's first training stage is allowed next to full weights, which include it.

    Raises:
        ModelFilesError: MM734.
    """
    names = {path.name for path in entries(directory)}
    peft = [name for name in _PEFT if name in names]
    if has_weights and peft:
        raise ModelFilesError(
            f"`{display(directory)}` holds full weights and an adapter (`{peft[-1]}`){_base(directory)}: "
            "transformers would apply the adapter to its base model, an engine would be built without it",
            code="MM734",
            hint="remove the adapter if it is merged into the weights, or merge it first",
        )
    if not has_weights:
        refuse_adapter_only(display(directory), names, directory)


def refuse_adapter_only(shown_as: str, names: Set[str], directory: Path) -> None:
    """Check that a model does not consist of adapter files only.

    Args:
        shown_as: Name of the model in the message.
        names: Names of its files.
        directory: Directory of its small files.

    Raises:
        ModelFilesError: MM734, there is an adapter among ``names`` and no weight file.
    """
    name = next((name for name in (*_PEFT[1:], *_PARTS, CONFIG) if name in names), None)
    if name is None or any(hf_layout.is_weights(file.rpartition("/")[2]) for file in names):
        return
    raise ModelFilesError(
        f"`{shown_as}` holds an adapter (`{name}`){_base(directory)}, not a model",
        code="MM734",
        hint="merge the adapter into its base model (`merge_and_unload` of PEFT, `merge_lora_weights.py` of LLaVA) "
        "and set model.source to the result",
    )


def _base(directory: Path) -> str:
    try:
        base = read_json(directory / CONFIG).get("base_model_name_or_path")
    except SmallFileError:
        base = None
    return f" for the base model `{base}`" if isinstance(base, str) and base else ""
