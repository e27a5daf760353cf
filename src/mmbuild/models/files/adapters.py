"""Adapters: small weights that mean something only on top of a base model."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from mmbuild.base.files import entries
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import SmallFileError, display, read_json
from mmbuild.models.sources import hf_layout

CONFIG = "adapter_config.json"
# PEFT's files, by the names that `PeftModel.save_pretrained` gives them.
_PEFT = (CONFIG, "adapter_model.safetensors", "adapter_model.bin")
# Parts that LLaVA's training code saves instead of a model.
_PARTS = ("non_lora_trainables.bin", "mm_projector.bin")


def require_merged(directory: Path, *, has_weights: bool) -> None:
    """Refuse adapters, alone or next to full weights.

    A projector of LLaVA's first stage next to full weights is left over from training and part of them.

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
    """Refuse a model of adapter files without weights.

    Args:
        shown_as: What the message calls the model.
        names: Names of its files.
        directory: Where its small files are.

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
