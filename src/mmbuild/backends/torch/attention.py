"""Attention over static caches, with TensorRT-LLM's tensor names.

The caches are buffers that the session owns and binds to all packages. Positions are inputs, not state, because
Inductor constant-folds a one-element buffer that a graph mutates (pytorch #165444).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch import positions as rope
from mmbuild.backends.torch.blocks import attention_scale
from mmbuild.backends.torch.config import EngineConfig, local_heads, local_kv_heads
from mmbuild.backends.torch.linear import MakeLinear
from mmbuild.models.families.facts import LlmFacts

Rotation = tuple[Tensor, Tensor] | None


def cache_shape(config: EngineConfig, slots: int) -> tuple[int, int, int, int]:
    """Shape of one layer's key (or value) cache: [sequences, kv_heads, slots, head_size].

    It has one slot more than a sequence can fill. If all slots could be live, torch.export would specialize on that
    length (a slice of everything is contiguous, a shorter one is not).
    """
    heads = local_kv_heads(config.llm, config.tensor_parallel)
    return (config.sequences, heads, slots + 1, config.llm.head_size)


class Projections(nn.Module):
    """Query, key and value projection in one layer, and the output projection."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__()
        self.head_size, self.scale = llm.head_size, attention_scale(llm)
        self.heads = local_heads(llm, config.tensor_parallel)
        self.kv_heads = local_kv_heads(llm, config.tensor_parallel)
        bias = llm.has_attention_qkvo_bias
        width = (self.heads + 2 * self.kv_heads) * self.head_size
        self.qkv = make(llm.hidden_size, width, bias=bias)
        self.dense = make(self.heads * self.head_size, llm.hidden_size, bias=bias, reduce=True)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, L, hidden] -> q [B, L, heads, d], k and v [B, L, kv_heads, d]; q and k rotated."""
        sizes = [self.heads * self.head_size] + [self.kv_heads * self.head_size] * 2
        q, k, v = (part.unflatten(-1, (-1, self.head_size)) for part in self.qkv(x).split(sizes, dim=-1))
        if rotation is not None:
            q, k = rope.rotate(q, *rotation), rope.rotate(k, *rotation)
        return q, k, v

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """q [B, heads, L, d], k and v [B, heads, S, d], mask that broadcasts to [B, heads, L, S]."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale)


class EncoderAttention(Projections):
    """Attention among all tokens of a prompt."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, L, hidden], mask [B, heads, L, L] -> [B, L, hidden]."""
        q, k, v = (part.transpose(1, 2) for part in self.project(x, None))
        out: Tensor = self.dense(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return out


class CachedProjections(Projections):
    """Projections with a key and a value cache of ``slots`` slots, :func:`cache_shape` each."""

    k_cache: Tensor
    v_cache: Tensor

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear, slots: int) -> None:
        super().__init__(config, llm, make)
        for name in ("k_cache", "v_cache"):
            self.register_buffer(name, torch.zeros(cache_shape(config, slots), dtype=config.torch_dtype))


class Attention(CachedProjections):
    """Causal grouped-query attention over a static cache."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__(config, llm, make, config.max_seq_len)

    def prefill(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Fill slots 0..L-1 and attend causally among the L tokens: [B, L, hidden] -> the same."""
        batch, length, _ = x.shape
        q, k, v = self.project(x, rotation)
        self.k_cache[:batch, :, :length] = k.transpose(1, 2)
        self.v_cache[:batch, :, :length] = v.transpose(1, 2)
        group = self.heads // self.kv_heads
        if group > 1:
            k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out: Tensor = self.dense(self.attend(q, k, v, causal=True).transpose(1, 2).flatten(2))
        return out

    def decode(self, x: Tensor, rotation: Rotation, positions: Tensor, mask: Tensor) -> Tensor:
        """Write one slot per sequence and attend to the live ones.

        x [B, 1, hidden]; positions int64 [B]; mask [B, 1 or heads, 1, slots]: either bool, true where a slot holds a
        token of that sequence (this one included), or added to the scores -> [B, 1, hidden].
        """
        batch, slots = x.shape[0], mask.shape[-1]
        q, k, v = self.project(x, rotation)
        rows = torch.arange(batch, device=x.device)[:, None]
        heads = torch.arange(self.kv_heads, device=x.device)[None, :]
        self.k_cache.index_put_((rows, heads, positions[:, None]), k[:, 0])
        self.v_cache.index_put_((rows, heads, positions[:, None]), v[:, 0])
        # The query heads that share a key head form the rows of one small product, so keys are read once.
        q = q.reshape(batch, self.kv_heads, -1, self.head_size)
        keys, values = self.k_cache[:batch, :, :slots], self.v_cache[:batch, :, :slots]
        out: Tensor = self.dense(self.attend(q, keys, values, mask).reshape(batch, 1, -1))
        return out


class CrossAttention(CachedProjections):
    """Attention to an encoder's output, whose keys and values are computed once per prompt."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__(config, llm, make, config.cross_len)

    def fill(self, states: Tensor) -> None:
        """Write keys and values of the encoder's output [B, S, hidden] to slots 0..S-1."""
        batch, length, _ = states.shape
        width = self.heads * self.head_size
        kv = self.qkv.part(states, width, width + 2 * self.kv_heads * self.head_size)
        k, v = (part.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in kv.chunk(2, dim=-1))
        self.k_cache[:batch, :, :length] = k
        self.v_cache[:batch, :, :length] = v

    def decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, 1, hidden], mask bool [B, 1, 1, S] -> [B, 1, hidden]."""
        batch, slots = x.shape[0], mask.shape[-1]
        q = self.qkv.part(x, 0, self.heads * self.head_size)
        q = q.view(batch, 1, self.heads, self.head_size).transpose(1, 2)
        keys, values = self.k_cache[:batch, :, :slots], self.v_cache[:batch, :, :slots]
        out: Tensor = self.dense(self.attend(q, keys, values, mask).reshape(batch, 1, -1))
        return out
