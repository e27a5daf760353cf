"""Writes ``config.json``: the model's own, with the number format and the quantization of the new weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DTYPE_KEYS = ("dtype", "torch_dtype")
"""transformers reads the first from 4.56 on, and the second before."""


def config_json(
    source: Mapping[str, Any], dtype: str, quantization: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
        source: The model's ``config.json``.
        dtype: Number format of everything that is not quantized.
        quantization: Section ``quantization_config``; None if nothing is quantized.
    """
    config = {key: _section(value, dtype) for key, value in source.items()}
    config = {key: value for key, value in config.items() if key not in _DTYPE_KEYS}
    config |= (
        {"torch_dtype": dtype} if "torch_dtype" in source and "dtype" not in source else {"dtype": dtype}
    )
    return config if quantization is None else {**config, "quantization_config": dict(quantization)}


def _section(value: Any, dtype: str) -> Any:
    """``value``, with the number format of a section that states one."""
    if not isinstance(value, Mapping):
        return value
    return {key: dtype if key in _DTYPE_KEYS and old is not None else old for key, old in value.items()}


def write(path: Path, config: Mapping[str, Any]) -> None:
    """Write ``config`` as JSON to ``path``."""
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
