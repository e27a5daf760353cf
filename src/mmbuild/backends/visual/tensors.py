"""Reads the weights of a visual module from Hugging Face model directories, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mmbuild.base.progress import BYTES, Amount, Progress, silent
from mmbuild.models.checkpoint import writer
from mmbuild.models.checkpoint.convert import require_finite, stored_twice
from mmbuild.models.checkpoint.hf_weights import StoredTensor, open_weights, require_floats
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.dtypes import DTYPES
from mmbuild.models.errors import EngineError

WEIGHTS = "visual.safetensors"

Canonical = Callable[[str, str], str | None]
"""``canonical(source, name)``: the common name of a tensor of a source (or of the module, with source ``module``);
None if it is not part of the visual side."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Context in which modules are built whose parameters are on the meta device; buffers have their values."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def fill(module: nn.Module, sources: Mapping[str, Path], canonical: Canonical) -> None:
    """Copy the model's tensors into ``module``'s parameters, converting the dtype.

    Args:
        module: The module to fill.
        sources: Model directories, ``{"model": ...}`` and optionally ``"vision"``.
        canonical: Names.

    Raises:
        EngineError: MM532, a parameter has no tensor; MM531, the shapes differ.
        CheckpointError: The weights are missing or damaged.
    """
    parameters = {canonical("module", name): parameter for name, parameter in module.named_parameters()}
    for name, stored in _stored(module, sources, canonical):
        with torch.no_grad():
            parameters[name].copy_(stored.read(TensorSlice()))


def convert(
    module: nn.Module,
    sources: Mapping[str, Path],
    canonical: Canonical,
    dtype: str,
    out: Path,
    progress: Progress = silent,
) -> None:
    """Write the parameters and buffers of ``module`` to ``visual.safetensors``, under their common names.

    Args:
        module: The module, built :func:`without_weights`.
        sources: Model directories, ``{"model": ...}`` and optionally ``"vision"``.
        canonical: Names.
        dtype: Dtype of floats: ``float32``, ``float16`` or ``bfloat16``.
        out: An existing directory.
        progress: Called with each tensor and the bytes that are written.

    Raises:
        EngineError: MM532, a parameter has no tensor; MM531, the shapes differ.
        CheckpointError: The weights are missing or damaged; MM432, a value is not finite in ``dtype``.
    """
    module = module.to(DTYPES[dtype])
    tensors = {
        str(canonical("module", name)): value
        for name, value in [*module.named_parameters(), *module.named_buffers()]
    }
    entries = [
        writer.TensorEntry(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in sorted(tensors.items())
    ]
    with writer.create(out / WEIGHTS, writer.layout(entries)) as file:
        total, done = sum(entry.size for entry in entries), 0
        for name, value in tensors.items():
            if not value.is_meta:
                done += file.put(name, value)
        progress("buffers", Amount(done, total, BYTES))
        for name, stored in _stored(module, sources, canonical):
            value = stored.read(TensorSlice()).to(tensors[name].dtype).contiguous()
            require_finite(value, name, stored.file, dtype)
            done += file.put(name, value)
            progress(name, Amount(done, total, BYTES))


def _stored(
    module: nn.Module, sources: Mapping[str, Path], canonical: Canonical
) -> Iterator[tuple[str, StoredTensor]]:
    """The stored tensor of every parameter, by its common name; that of the first source that has it.

    Raises:
        EngineError: MM532, a parameter has no tensor; MM531, the shapes differ.
        CheckpointError: MM434, a source has a tensor under two names.
    """
    required = {canonical("module", name): parameter for name, parameter in module.named_parameters()}
    for source, directory in sources.items():
        with open_weights(directory) as stored:
            _require_one_name({name: canonical(source, name) for name in stored}, set(required))
            for name, tensor in stored.items():
                known = canonical(source, name)
                parameter = required.pop(known, None) if known is not None else None
                if parameter is not None:  # None: the LLM, layers after the selected one, position ids
                    require_floats(name, tensor)
                    _require_shape(str(known), tensor, parameter)
                    yield str(known), tensor
    if required:
        first = sorted(map(str, required))[0]
        raise EngineError(
            f"the model has no tensor `{first}`"
            + (f" and {len(required) - 1} more" if len(required) > 1 else ""),
            code="MM532",
            hint="the visual tower or projector is missing from the weights",
        )


def _require_one_name(known: Mapping[str, str | None], required: Collection[str | None]) -> None:
    """Check that a source has no required tensor under the names of two releases of transformers."""
    found: dict[str | None, str] = {}
    for name, common in known.items():
        if common in required and found.setdefault(common, name) != name:
            raise stored_twice(name, found[common])


def _require_shape(name: str, stored: StoredTensor, parameter: Tensor) -> None:
    if tuple(parameter.shape) != stored.shape:
        raise EngineError(
            f"tensor `{name}` has shape {list(stored.shape)}, but config.json implies {list(parameter.shape)}",
            code="MM531",
            hint="config.json and weights are of different models",
        )
