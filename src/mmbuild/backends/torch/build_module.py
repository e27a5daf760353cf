"""Builds an engine's module from its config, and the buffers that are not in a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbuild.backends.torch import positions as relative_position
from mmbuild.backends.torch import positions as rope
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.decoder_only import CausalLm
from mmbuild.backends.torch.encoder_decoder import EncoderDecoder
from mmbuild.backends.torch.linear import Layout

_CACHES = ("k_cache", "v_cache")


def make_model(config: EngineConfig, layout: Layout) -> CausalLm | EncoderDecoder:
    """The module of one rank, weights uninitialized, on the default device."""
    return EncoderDecoder(config, layout) if config.llm.cross_attention else CausalLm(config, layout)


def _on_meta(config: EngineConfig) -> nn.Module:
    with torch.device("meta"):
        return make_model(config, "plain")


def weights_of(config: EngineConfig) -> dict[str, Tensor]:
    """The weights that a checkpoint for ``config`` must contain: meta tensors in plain layout, by module name."""
    return {name: parameter.data for name, parameter in _on_meta(config).named_parameters()}


def buffers_of(config: EngineConfig) -> dict[str, Tensor]:
    """The buffers that the session creates, as meta tensors by module name."""
    return dict(_on_meta(config).named_buffers())


def runtime_buffers(config: EngineConfig, device: str) -> dict[str, Tensor]:
    """The buffers that the session creates: zeroed caches, rotary frequencies, buckets of relative positions."""
    return {name: _buffer(name, buffer, config).to(device) for name, buffer in buffers_of(config).items()}


def _buffer(name: str, shape: Tensor, config: EngineConfig) -> Tensor:
    if is_cache(name):
        return torch.zeros(shape.shape, dtype=shape.dtype)
    if name == "rotary_inv_freq":
        return rope.inverse_frequencies(config.llm)
    if name.startswith("encoder."):
        assert config.encoder is not None
        return relative_position.buckets(config.encoder, config.max_input_len, both_ways=True)
    return relative_position.buckets(config.llm, config.max_seq_len, both_ways=False)


def is_cache(name: str) -> bool:
    """Whether the constant is a key or value cache, of self- or cross-attention."""
    return name.rpartition(".")[2] in _CACHES


def is_cross_cache(name: str) -> bool:
    """Whether the constant is a cache of cross-attention."""
    return is_cache(name) and ".cross_attention." in name
