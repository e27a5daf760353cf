"""The packages of an LLM engine: which part of the model each is, and which weights and caches it takes as inputs.

Layers of a model have the same shape, so one package serves them all; each call passes the weights and caches of one
layer. So packages depend on shapes, never on the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from mmbuild.backends.engine_dir import description
from mmbuild.backends.torch.build_module import is_cache, make_model
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.linear import Layout


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension of example inputs.

    Attributes:
        size: Size in the example. Sizes of dynamic dimensions must differ and be at least 2.
        dim: Its range.
    """

    size: int
    dim: Any


def _axis(name: str, example: int, limit: int) -> Axis:
    """1 to ``limit``; static if it can only be 1, so that matrix-vector products are compiled as such."""
    return Axis(min(example, limit), Dim(name, min=1, max=limit) if limit > 1 else Dim.STATIC)


_ONE = Axis(1, Dim.STATIC)


def _most(dim: Any, size: int) -> int:
    """The largest size of a dimension; ``size`` if it is static."""
    return size if dim is None or dim is Dim.STATIC else int(dim.max)


@dataclass(frozen=True, slots=True)
class Example:
    """Example inputs of a package.

    Attributes:
        inputs: Tensors on the CPU, without weights and caches.
        dims: Dynamic dimensions of each.
        rows: First dimension of its caches.
    """

    inputs: tuple[Tensor, ...]
    dims: tuple[Mapping[int, Any] | None, ...]
    rows: Axis = _ONE

    def largest(self) -> tuple[tuple[int, ...], ...]:
        """The largest shape of each input."""
        return tuple(
            tuple(_most((dims or {}).get(place), size) for place, size in enumerate(value.shape))
            for value, dims in zip(self.inputs, self.dims, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Package:
    """One package.

    Attributes:
        owner: Path of the module in the model; of a list of layers, any of which it serves.
        method: Method of the module that it is.
        reads: Prefixes of the names, relative to the module, of the tensors that it reads.
        example: Its example inputs for a config.
    """

    owner: str
    method: str
    reads: tuple[str, ...]
    example: Callable[[EngineConfig], Example]

    @property
    def is_layer(self) -> bool:
        """Whether it serves every layer of a list."""
        return self.owner.endswith("layers")

    def module(self, model: nn.Module) -> nn.Module:
        """The module in ``model``: the first of the layers that it serves."""
        return model.get_submodule(f"{self.owner}.0" if self.is_layer else self.owner)

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Names, relative to the module, of the tensors passed after the inputs: caches come last."""
        module = self.module(model)
        named = [*dict(module.named_parameters()), *dict(module.named_buffers())]
        read = [name for name in named if name.startswith(self.reads) and not self._is_shared(name)]
        return tuple(sorted(read, key=lambda name: (is_cache(name), name)))

    def _is_shared(self, name: str) -> bool:
        """Whether the first layer holds a tensor for all: T5's table of relative positions."""
        return self.is_layer and name.endswith(".rel_attn_table")

    def prefixes(self, config: EngineConfig) -> tuple[str, ...]:
        """Prefix of the names in the model for each module that it serves."""
        if not self.is_layer:
            return (f"{self.owner}." if self.owner else "",)
        stack = config.encoder if self.owner.startswith("encoder.") else config.llm
        assert stack is not None
        return tuple(f"{self.owner}.{layer}." for layer in range(stack.num_hidden_layers))


def one_layer(config: EngineConfig) -> EngineConfig:
    """``config`` with one layer per stack, which is all that packages depend on."""
    encoder = config.encoder and replace(config.encoder, num_hidden_layers=1)
    return replace(config, llm=replace(config.llm, num_hidden_layers=1), encoder=encoder)


def one_layer_model(config: EngineConfig, layout: Layout, device: str) -> nn.Module:
    """The module of :func:`one_layer` on ``device``, weights uninitialized."""
    with torch.device(device):
        return make_model(one_layer(config), layout)


def largest_shapes(config: EngineConfig) -> dict[str, list[tuple[str, tuple[int, ...]] | None]]:
    """Name and largest shape of every input, by package; None for weights, whose layout depends on the device.
    Allocates nothing."""
    model = one_layer_model(config, "plain", "meta")
    shapes = {}
    for name, package in table(config).items():
        with torch.device("meta"):
            example = package.example(config)
        module, rows = package.module(model), _most(example.rows.dim, example.rows.size)
        inputs = [(f"input {place}", shape) for place, shape in enumerate(example.largest(), start=1)]
        caches = {key: (rows, *value.shape[1:]) for key, value in module.named_buffers() if is_cache(key)}
        tensors = [(key, caches[key]) if key in caches else None for key in package.names(model)]
        shapes[name] = [*inputs, *tensors]
    return shapes


def table(config: EngineConfig) -> dict[str, Package]:
    """The packages of an engine by name."""
    known = _ENCODER_DECODER if config.llm.cross_attention else _DECODER_ONLY
    return {name: known[name] for name in description.packages(config.to_json())}


def _sequences(config: EngineConfig) -> Axis:
    return _axis("batch", 2, config.sequences)


def _prompts(config: EngineConfig) -> Axis:
    return _axis("batch", 2, config.max_batch_size)


def _length(config: EngineConfig) -> Axis:
    return _axis("length", 5, config.max_input_len)


def _slots(config: EngineConfig) -> Axis:
    return _axis("slots", 7, config.max_seq_len)


def _cross_slots(config: EngineConfig) -> Axis:
    return _axis("cross_slots", 11, config.cross_len)


def _integers(*sizes: Axis) -> Tensor:
    return torch.zeros([axis.size for axis in sizes], dtype=torch.int64)


def _dims(*axes: Axis | None) -> dict[int, Any]:
    return {place: axis.dim for place, axis in enumerate(axes) if axis is not None}


def _rotation(config: EngineConfig, rows: Axis, length: Axis) -> Example:
    if config.llm.position_embedding_type != "rope_gpt_neox":
        return Example((), ())
    shape = (rows.size, length.size, 1, config.llm.head_size)
    return Example((torch.zeros(shape, dtype=config.torch_dtype),) * 2, (_dims(rows, length),) * 2)


def _hidden(config: EngineConfig, rows: Axis, length: Axis) -> Tensor:
    return torch.zeros(rows.size, length.size, config.hidden_size, dtype=config.torch_dtype)


def _embed(config: EngineConfig) -> Example:
    rows, length, slots = _sequences(config), _length(config), _slots(config)
    prompt_table = torch.zeros(config.max_multimodal_len, config.hidden_size, dtype=config.torch_dtype)
    ids = _integers(rows, length)
    both = _dims(rows, length)
    return Example((ids, ids, torch.arange(slots.size), prompt_table), (both, both, _dims(slots), None))


def _prefill(config: EngineConfig) -> Example:
    rows, length = _prompts(config), _length(config)
    rotation = _rotation(config, rows, length)
    inputs = (_hidden(config, rows, length), torch.arange(rows.size), *rotation.inputs)
    caches = Axis(config.sequences, Dim.STATIC)
    return Example(inputs, (_dims(rows, length), _dims(rows), *rotation.dims), caches)


def _extend(config: EngineConfig, rows: Axis, length: Axis) -> Example:
    slots, rotation = _slots(config), _rotation(config, rows, length)
    mask = torch.zeros(rows.size, 1, length.size, slots.size, dtype=config.torch_dtype)
    inputs = (_hidden(config, rows, length), _integers(rows, length), mask, *rotation.inputs)
    both = _dims(rows, length)
    return Example(inputs, (both, both, _dims(rows, None, length, slots), *rotation.dims), rows)


def _chunk(config: EngineConfig) -> Example:
    return _extend(config, _prompts(config), _length(config))


def _head(config: EngineConfig, rows: Axis) -> Example:
    return Example((torch.zeros(rows.size, config.hidden_size, dtype=config.torch_dtype),), (_dims(rows),))


def _encoder_embed(config: EngineConfig) -> Example:
    rows, length = _prompts(config), _length(config)
    prompt_table = torch.zeros(config.max_multimodal_len, config.hidden_size, dtype=config.torch_dtype)
    lengths = torch.full((rows.size,), length.size)
    return Example((_integers(rows, length), lengths, prompt_table), (_dims(rows, length), _dims(rows), None))


def _encoder_layer(config: EngineConfig) -> Example:
    rows, length, encoder = _prompts(config), _length(config), config.encoder
    assert encoder is not None
    heads = encoder.num_attention_heads // config.tensor_parallel
    mask = torch.zeros(rows.size, heads, length.size, length.size, dtype=config.torch_dtype)
    dims = (_dims(rows, length), _dims(rows, None, length, length))
    return Example((_hidden(config, rows, length), mask), dims)


def _encoder_finish(config: EngineConfig) -> Example:
    rows, length = _prompts(config), _length(config)
    return Example((_hidden(config, rows, length),), (_dims(rows, length),))


def _states(config: EngineConfig) -> Example:
    rows = _prompts(config)
    # The number of encoded tokens varies if an encoder reads prompts; features are always complete.
    length = _length(config) if config.encoder else Axis(config.cross_len, Dim.STATIC)
    return Example((_hidden(config, rows, length),), (_dims(rows, length),), rows)


def _decoder_embed(config: EngineConfig) -> Example:
    rows, slots, cross = _sequences(config), _slots(config), _cross_slots(config)
    ids, lengths = _integers(rows, _ONE), torch.full((rows.size,), cross.size)
    inputs = (ids, ids, torch.arange(slots.size), lengths, torch.arange(cross.size))
    return Example(inputs, (_dims(rows), _dims(rows), _dims(slots), _dims(rows), _dims(cross)))


def _decoder_layer(config: EngineConfig, rows: Axis) -> Example:
    slots, cross, llm = _slots(config), _cross_slots(config), config.llm
    relative = llm.position_embedding_type == "relative"
    heads = llm.num_attention_heads // config.tensor_parallel if relative else 1
    mask = torch.zeros(rows.size, heads, 1, slots.size, dtype=config.torch_dtype)
    cross_mask = torch.zeros(rows.size, 1, 1, cross.size, dtype=config.torch_dtype)
    inputs = (_hidden(config, rows, _ONE), _integers(rows, _ONE), mask, cross_mask)
    dims = (_dims(rows), _dims(rows), _dims(rows, None, None, slots), _dims(rows, None, None, cross))
    return Example(inputs, dims, rows)


_LAYERS, _HEAD = "transformer.layers", ("transformer.ln_f.", "lm_head.")
_WORDS = ("transformer.vocab_embedding.", "transformer.position_embedding.", "rotary_inv_freq")
_DECODER_ONLY = {
    "embed": Package("", "embed", _WORDS, _embed),
    "layer_prefill": Package(_LAYERS, "prefill", ("",), _prefill),
    "layer_chunk": Package(_LAYERS, "extend", ("",), _chunk),
    "layer_decode": Package(_LAYERS, "extend", ("",), lambda config: _extend(config, _ONE, _ONE)),
    "layer_decode_batch": Package(
        _LAYERS, "extend", ("",), lambda config: _extend(config, _sequences(config), _ONE)
    ),
    "head": Package("", "logits", _HEAD, lambda config: _head(config, _ONE)),
    "head_batch": Package("", "logits", _HEAD, lambda config: _head(config, _sequences(config))),
}

_ENCODERS, _DECODERS = "encoder.encoder_layers", "decoder.decoder_layers"
_CROSS = tuple(f"cross_attention.{name}" for name in ("qkv.", "k_cache", "v_cache"))
_ENCODER_WORDS = ("embedding.", "encoder_layers.0.attention.rel_attn_table", "position_buckets")
_DECODER_WORDS = ("embedding.", "decoder_layers.0.self_attention.rel_attn_table", "position_buckets")
_DECODER_HEAD = ("final_layernorm.", "lm_head.")
_ENCODER_DECODER = {
    "encoder_embed": Package("encoder", "embed", _ENCODER_WORDS, _encoder_embed),
    "encoder_layer": Package(_ENCODERS, "forward", ("",), _encoder_layer),
    "encoder_finish": Package("encoder", "finish", ("final_layernorm.",), _encoder_finish),
    "cross_fill": Package(_DECODERS, "fill", _CROSS, _states),
    "embed": Package("decoder", "embed", _DECODER_WORDS, _decoder_embed),
    "layer_decode": Package(_DECODERS, "decode", ("",), lambda config: _decoder_layer(config, _ONE)),
    "layer_decode_batch": Package(
        _DECODERS, "decode", ("",), lambda config: _decoder_layer(config, _sequences(config))
    ),
    "head": Package("decoder", "logits", _DECODER_HEAD, lambda config: _head(config, _ONE)),
    "head_batch": Package(
        "decoder", "logits", _DECODER_HEAD, lambda config: _head(config, _sequences(config))
    ),
}
