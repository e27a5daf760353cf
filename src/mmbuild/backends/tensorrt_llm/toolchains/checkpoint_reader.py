"""Predicts whether a version of TensorRT-LLM can read a checkpoint, from its keys, algorithms and tensors.

The facts are in ``reader.yaml`` of a version. They are stricter than the readers: anything unknown is rejected, so
only verified combinations are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from mmbuild.backends.tensorrt_llm.toolchains.load import version_facts
from mmbuild.backends.tensorrt_llm.toolchains.model import Part
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import CHECKPOINT_CONFIG
from mmbuild.base.safetensors_header import HeaderProblemError, read_tensor_header
from mmbuild.models.checkpoint.reader import rank_file
from mmbuild.models.errors import CheckpointError
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

_ROWS = ("attention.dense", "mlp.proj")
_LINEARS = ("attention.qkv", *_ROWS, "mlp.fc", "mlp.gate")
_NORMS = ("input_layernorm", "post_layernorm")
_PLAIN_BASE = 10000.0
_UNKNOWN = "not known to be read"
_MOST_RANKS = 1_000

Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensors of a rank's file by name: number type (``F16``, ``I8``, ``F8_E4M3``) and shape."""


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason why a reader would reject a checkpoint.

    Attributes:
        key: Dotted key in ``config.json``, or name of a tensor.
        why: The problem, without the key.
    """

    key: str
    why: str


class Layout(Part):
    """Required tensors of quantized layers.

    Attributes:
        dtypes: Supported dtypes of the model.
        tensors: Number types by suffix.
        rows: The same for layers whose inputs are split over ranks.
        norms: The same for the norms of every layer; one number each.
        group_sizes: Supported group sizes; None if the algorithm has no groups.
    """

    dtypes: Sequence[str]
    tensors: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[str]] = Field(default={})
    norms: Mapping[str, Sequence[str]] = Field(default={})
    group_sizes: Sequence[int] | None = None


class ReleaseLine(Part):
    """The checkpoint reader of a version: ``reader.yaml``.

    Attributes:
        required: Required keys of ``config.json``.
        read_only: Keys of ``config.json`` that the reader cannot set.
        quantization: Supported keys of ``quantization``; others raise.
        quant_algos: Supported values of ``quant_algo``.
        calibrated: Calibrated algorithms that it loads, by architecture.
        reader_run: Whether this was tested by running its reader; otherwise by reading its sources.
        rotary_kinds: Supported kinds of rope scaling.
        layouts: Tensors of quantized layers, by algorithm.
        permuted: Algorithms whose weights its converters permute.
        float16_alone: Algorithms that always compute in float16, regardless of the model's dtype.
        plain_rotary_alone: Algorithms whose attention ignores rotary base and scaling.
        reads_type_only: Whether its converter reads the kind of rope scaling from ``type`` only.
        derives_head_size: Whether it computes the head size as ``hidden_size / num_attention_heads``.
    """

    required: Sequence[str]
    read_only: Sequence[str]
    quantization: Sequence[str]
    quant_algos: Sequence[str]
    calibrated: Mapping[str, Sequence[str]]
    reader_run: bool
    rotary_kinds: Sequence[str]
    layouts: Mapping[str, Layout]
    permuted: Sequence[str]
    float16_alone: Sequence[str] = ()
    plain_rotary_alone: Sequence[str] = ()
    reads_type_only: bool = False
    derives_head_size: bool = False


@cache
def release_line(version: str) -> ReleaseLine:
    """The checkpoint reader of ``version``."""
    return ReleaseLine.model_validate(version_facts(version, "reader"))


def read_config(line: str, config: Mapping[str, Any]) -> tuple[Objection, ...]:
    """Objections of a version's reader to a ``config.json``; empty if it can read the file.

    Args:
        line: A TensorRT-LLM version, as in names of toolchains.
        config: The file's content.
    """
    if line not in SUPPORTED:
        return (Objection("version", f"TensorRT-LLM {line} is {_UNKNOWN}"),)
    return tuple(_config(release_line(line), config))


def _config(line: ReleaseLine, config: Mapping[str, Any]) -> Iterator[Objection]:
    for key in line.required:
        if config.get(key) is None:
            yield Objection(key, "is missing")
    for key in config:
        if key in line.read_only:
            yield Objection(key, "is an attribute that its reader cannot set")
    yield from _positions(line, config)
    quantization = config.get("quantization") or {}
    for key in quantization:
        if key not in line.quantization:
            yield Objection(f"quantization.{key}", "is a key that its reader does not know and fails on")
    algorithm = quantization.get("quant_algo")
    if algorithm is not None:
        yield from _quantized(line, config, algorithm)


def _positions(line: ReleaseLine, config: Mapping[str, Any]) -> Iterator[Objection]:
    scaling = config.get("rotary_scaling")
    kind = None if scaling is None else scaling.get("type")
    if scaling is not None and kind not in line.rotary_kinds:
        known = ", ".join(line.rotary_kinds)
        yield Objection("rotary_scaling", f"`{kind}` is not supported by its reader ({known})")
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if line.derives_head_size and width and heads and config.get("head_size") not in (None, width // heads):
        yield Objection(
            "head_size",
            f"{config['head_size']} is not hidden_size {width} / num_attention_heads {heads}, which its reader uses",
        )


def _quantized(line: ReleaseLine, config: Mapping[str, Any], algorithm: str) -> Iterator[Objection]:
    where = "quantization.quant_algo"
    if algorithm not in line.quant_algos:
        yield Objection(where, f"{algorithm} is not supported by its reader")
        return
    if algorithm in line.permuted:
        if config.get("layout") == "plain":
            yield Objection(
                "layout", f"plain weights of {algorithm} are read as permuted ones, which gives wrong answers"
            )
        return
    architecture = config.get("architecture")
    layout = line.layouts.get(algorithm)
    if layout is None or algorithm not in line.calibrated.get(str(architecture), ()):
        yield Objection(where, f"{algorithm} of {architecture} is {_UNKNOWN}")
        return
    if config.get("dtype") not in layout.dtypes:
        yield Objection("dtype", f"{config.get('dtype')} with {algorithm} is {_UNKNOWN}")
    elif algorithm in line.float16_alone and config.get("dtype") != "float16":
        yield Objection("dtype", f"{algorithm} always computes in float16 there")
    turned = config.get("rotary_scaling") is not None or config.get("rotary_base") not in (None, _PLAIN_BASE)
    if algorithm in line.plain_rotary_alone and turned:
        yield Objection(
            "rotary_base",
            f"attention of {algorithm} ignores a base other than {_PLAIN_BASE:g} and any scaling",
        )
    group = config["quantization"].get("group_size")
    if layout.group_sizes is not None and group not in layout.group_sizes:
        yield Objection("quantization.group_size", f"{group} is not supported by its kernels")


def read_tensors(line: str, config: Mapping[str, Any], header: Header) -> tuple[Objection, ...]:
    """Tensors of a rank that the reader of a version would miss or misread, according to ``config``."""
    quantization = config.get("quantization") or {}
    layout = release_line(line).layouts.get(str(quantization.get("quant_algo")))
    return () if layout is None else tuple(_tensors(layout, quantization.get("group_size"), header))


def _tensors(layout: Layout, group: int | None, header: Header) -> Iterator[Objection]:
    yield from _norms(layout, header)
    for weight in header:
        layer = weight.removesuffix(".weight")
        if layer == weight or not layer.endswith(_LINEARS):
            continue
        required = {**layout.tensors, **(layout.rows if layer.endswith(_ROWS) else {})}
        for suffix, dtypes in required.items():
            dtype = header.get(f"{layer}.{suffix}", ("", ()))[0]
            if dtype not in dtypes:
                why = (
                    f"is {dtype}, not {' or '.join(dtypes)}" if dtype else "is missing, so that reading fails"
                )
                yield Objection(f"{layer}.{suffix}", why)
        scales = header.get(f"{layer}.weights_scaling_factor", ("", ()))[1]
        if (
            layout.group_sizes is not None
            and len(scales) == 2
            and scales[1] * (group or 0) != header[weight][1][1]
        ):
            yield Objection(f"{layer}.weights_scaling_factor", f"does not have one column per {group} inputs")


def _norms(layout: Layout, header: Header) -> Iterator[Objection]:
    for weight in header:
        norm = weight.removesuffix(".weight")
        if norm == weight or not norm.endswith(_NORMS):
            continue
        for suffix, dtypes in layout.norms.items():
            name = f"{norm}.{suffix}"
            dtype, shape = header.get(name, ("", ()))
            if not dtype:
                yield Objection(name, "is missing, so that reading fails")
            elif dtype not in dtypes or shape != (1,):
                yield Objection(name, f"is {dtype} {list(shape)}, not {' or '.join(dtypes)} [1]")


def lines_that_read(checkpoint: Path) -> tuple[tuple[str, ...], Objection | None]:
    """Versions that can read ``checkpoint``; if there are none, also the first objection of the newest version.

    Raises:
        CheckpointError: MM436, a file cannot be read.
    """
    config, headers = _opened(checkpoint)
    by_line = {
        line: [
            *read_config(line, config),
            *(item for header in headers for item in read_tensors(line, config, header)),
        ]
        for line in SUPPORTED
    }
    readable = tuple(line for line, objections in by_line.items() if not objections)
    return readable, None if readable else by_line[SUPPORTED[-1]][0]


def _opened(checkpoint: Path) -> tuple[dict[str, Any], list[Header]]:
    try:
        config = read_object(checkpoint / "config.json", CHECKPOINT_CONFIG)
        ranks = int(config["mapping"]["world_size"])
        if not 1 <= ranks <= _MOST_RANKS:
            raise ValueError(f"world_size is {ranks}")
    except (OSError, FileRefusedError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"`{checkpoint / 'config.json'}` is not a checkpoint config: {type(error).__name__} {error}",
            code="MM436",
            hint="build the checkpoint again with `mmbuild apply`",
        ) from error
    return config, [_header(checkpoint / rank_file(rank)) for rank in range(ranks)]


def _header(path: Path) -> Header:
    try:
        return {name: (tensor.dtype, tensor.shape) for name, tensor in read_tensor_header(path).items()}
    except (OSError, FileRefusedError, HeaderProblemError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read: {error}",
            code="MM436",
            hint="run `mmbuild cache verify`, then apply again",
        ) from error
