"""Compiles modules to packages: torch.export, then AOTInductor with external weights.

Each package is a ``.pt2`` of a few megabytes. Weights, KV caches and rotary frequencies are constants that the
session binds by name, so all packages share one copy.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmbuild.backends.torch import decoder_only, encoder_decoder
from mmbuild.backends.torch.build_module import is_cache, make_model, runtime_buffers, weights_of
from mmbuild.backends.torch.calibrated_linear import reads
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.decoder_only import CausalLm
from mmbuild.backends.torch.encoder_decoder import EncodeFeatures, EncodePrompts
from mmbuild.backends.torch.linear import layout_of
from mmbuild.backends.torch.package_shapes import PACKAGE_PREFIX
from mmbuild.models.errors import EngineError

# Compiler options by instruction set: g++'s target and Inductor's vector width. Without an entry g++ compiles for the
# build machine.
_ISA: Mapping[str, Mapping[str, object]] = {
    "avx512": {"cpp.march": "x86-64-v4", "cpp.simdlen": 512},
    "avx2": {"cpp.march": "x86-64-v3", "cpp.simdlen": 256},
    "generic": {"cpp.march": "x86-64", "cpp.simdlen": 1} if platform.machine() == "x86_64" else {},
}


def export_llm(config: EngineConfig, device: str) -> dict[str, ExportedProgram]:
    """The graphs of an LLM engine by package name (:func:`~mmbuild.backends.engine_dir.description.packages`), traced
    with uninitialized weights.

    A dimension that can only be 1 is static, so that matrix-vector products are compiled as such.
    """
    with torch.device(device):
        model = make_model(config, layout_of(device))
    if isinstance(model, CausalLm):
        start, step = (
            ("prefill", _export(decoder_only.Prefill(model), *_prompts(config), device)),
            decoder_only.Decode(model),
        )
    elif model.encoder is not None:
        start = ("encode", _export(EncodePrompts(model), *_prompts(config), device))
        step = encoder_decoder.Decode(model)
    else:
        start = ("encode", _export(EncodeFeatures(model), *_features(config), device))
        step = encoder_decoder.Decode(model)
    programs = dict([start], decode=_export(step, *_step(config, 1), device))
    if config.sequences > 1:
        programs["decode_batch"] = _export(step, *_step(config, config.sequences), device)
    return programs


# Example inputs of a graph, and their dynamic dimensions.
_Example = tuple[tuple[Tensor, ...], tuple[dict[int, Any] | None, ...]]


def _export(module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, device: str) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module, tuple(value.to(device) for value in inputs), dynamic_shapes=shapes)


def _prompts(config: EngineConfig) -> _Example:
    """1 to max_batch_size prompts of 1 to max_input_len tokens, and the prompt table."""
    batch, length = min(2, config.max_batch_size), min(5, config.max_input_len)
    ids = torch.zeros(batch, length, dtype=torch.int64)
    lengths = torch.full((batch,), length, dtype=torch.int64)
    table = torch.zeros(config.max_multimodal_len, config.hidden_size, dtype=config.torch_dtype)
    rows, columns = _dim("batch", config.max_batch_size), _dim("length", config.max_input_len)
    return (ids, lengths, table), ({0: rows, 1: columns}, {0: rows}, None)


def _features(config: EngineConfig) -> _Example:
    """Visual features of 1 to max_batch_size sequences."""
    batch = min(2, config.max_batch_size)
    features = torch.zeros(batch, config.cross_len, config.hidden_size, dtype=config.torch_dtype)
    return (features,), ({0: _dim("batch", config.max_batch_size)},)


def _step(config: EngineConfig, sequences: int) -> _Example:
    """1 to ``sequences`` sequences, 1 to max_seq_len live slots, and slots of cross-attention."""
    batch, slots = min(2, sequences), min(7, config.max_seq_len)
    tokens = torch.zeros(batch, dtype=torch.int64)
    rows, live = _dim("batch", sequences), _dim("slots", config.max_seq_len)
    inputs: tuple[Tensor, ...] = (tokens, torch.zeros_like(tokens), torch.arange(slots))
    shapes: tuple[dict[int, Any] | None, ...] = ({0: rows}, {0: rows}, {0: live})
    if config.cross_len:
        cross = min(5, config.cross_len)
        inputs += (torch.full_like(tokens, cross), torch.arange(cross))
        shapes += ({0: rows}, {0: _dim("cross_slots", config.cross_len)})
    return inputs, shapes


def _dim(name: str, limit: int) -> Any:
    """A dimension of 1 to ``limit``. Example sizes of dynamic dimensions must differ and be at least 2."""
    return Dim(name, min=1, max=limit) if limit > 1 else Dim.STATIC


def require_outside(path: Path, names: set[str]) -> None:
    """Check that all weights of a package are external.

    Inductor inlines constants of up to 8 elements, which here would be uninitialized values.

    Raises:
        EngineError: MM536, one of ``names`` is not an external constant of ``path``.
    """
    package = torch._inductor.aoti_load_package(os.fspath(path), run_single_threaded=True)
    inlined = sorted(names - set(package.get_constant_fqns()))
    if inlined:
        raise EngineError(
            f"Inductor compiled `{inlined[0]}` into {path.name} instead of making it external",
            code="MM536",
            hint="tensors of up to 8 elements cannot be external: the model is too small for this backend",
        )


def outside_names(config: EngineConfig, package: str, device: str) -> set[str]:
    """Required external constants of a package of ``config`` for ``device``: the weights and caches it reads."""
    read = {name for name in weights_of(config) if reads(name, config, device)}
    names = {*read, *filter(is_cache, runtime_buffers(config, "meta"))}
    if config.cross_len:
        names = {name for name in names if _reads(package, name)}
    return {PACKAGE_PREFIX + name for name in names}


def _reads(package: str, name: str) -> bool:
    """Whether a package of an encoder-decoder reads a constant."""
    cross = ".cross_attention." in name and not name.endswith(("dense.weight", "dense.bias"))
    if package == "encode":
        return name.startswith("encoder.") or cross
    return name.startswith("decoder.")


def compile_package(program: ExportedProgram, path: Path, target: Mapping[str, Any]) -> None:
    """Compile one exported graph to ``path`` (.pt2) for ``target``, with external weights.

    The number of CPU threads is chosen at run time. Inductor embeds its cache directory in source comments, so
    identical packages require the same ``TORCHINDUCTOR_CACHE_DIR``.
    """
    torch._inductor.aoti_compile_and_package(
        program, package_path=os.fspath(path), inductor_configs=inductor_options(target)
    )


def inductor_options(target: Mapping[str, Any], known: Any = None) -> dict[str, Any]:
    """Inductor options for a target, limited to those that this torch has.

    Args:
        target: ``device`` and, for CPUs, ``isa``.
        known: The configuration to look up options in; default: ``torch._inductor.config``. torch 2.11 has no
            ``cpp.march``, so g++ compiles for the build machine.
    """
    config = torch._inductor.config if known is None else known
    return {name: value for name, value in _options(target).items() if _has(config, name)}


def _has(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(config, part):
            return False
        config = getattr(config, part)
    return True


def _options(target: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"aot_inductor.package_constants_in_so": False}
    if target["device"] == "cpu":
        return options | {"cpp.dynamic_threads": True} | dict(_ISA.get(str(target["isa"]), {}))
    # Unrolled layers produce a long wrapper. With O0 a 7B decode package compiled in 137 s; with the default it had
    # not finished after 200 s. Decode runs as a CUDA graph without the wrapper; the effect on prefill is unmeasured.
    return options | {"aot_inductor.compile_wrapper_opt_level": "O0"}
