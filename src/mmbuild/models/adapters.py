"""Adapters: small weights that mean something only on top of a base model."""

from __future__ import annotations

from pathlib import Path

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.small_files import SmallFileError, read_json, shown

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
    peft = [name for name in _PEFT if (directory / name).is_file()]
    parts = [name for name in _PARTS if (directory / name).is_file()]
    if has_weights and peft:
        raise ModelFilesError(
            f"`{shown(directory)}` holds full weights and an adapter (`{peft[-1]}`){_base(directory)}: "
            "transformers would apply the adapter to its base model, an engine would be built without it",
            code="MM734",
            hint="remove the adapter if it is merged into the weights, or merge it first",
        )
    if not has_weights and (peft or parts):
        raise alone(directory)


def alone(directory: Path) -> ModelFilesError:
    """The error for a directory of adapters without a model."""
    name = next(name for name in (*_PEFT[1:], *_PARTS, CONFIG) if (directory / name).is_file())
    return ModelFilesError(
        f"`{shown(directory)}` holds an adapter (`{name}`){_base(directory)}, not a model",
        code="MM734",
        hint="merge the adapter into its base model (`merge_and_unload` of PEFT, `merge_lora_weights.py` of LLaVA) "
        "and set model.source to the result",
    )


def is_adapter(directory: Path) -> bool:
    """Whether ``directory`` holds files of an adapter."""
    return any((directory / name).is_file() for name in (*_PEFT, *_PARTS))


def _base(directory: Path) -> str:
    try:
        base = read_json(directory / CONFIG).get("base_model_name_or_path")
    except SmallFileError:
        base = None
    return f" for the base model `{base}`" if isinstance(base, str) and base else ""
