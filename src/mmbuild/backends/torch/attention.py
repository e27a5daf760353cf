"""Attention over static caches, with TensorRT-LLM's tensor names.

The caches belong to the session, which passes the rows of the sequences that a package is to work on.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch import positions as rope
from mmbuild.backends.torch.blocks import attention_scale
from mmbuild.backends.torch.config import EngineConfig, local_heads, local_kv_heads
from mmbuild.backends.torch.linear import MakeLinear
from mmbuild.models.families.facts import LlmFacts

Rotation = tuple[Tensor, Tensor] | None


def has_decode_kernel(llm: LlmFacts, dtype: torch.dtype, device: str) -> bool:
    """Whether a kernel attends for one new token: for 16-bit numbers on CUDA, without a bias in the mask."""
    return device == "cuda" and dtype.itemsize == 2 and llm.position_embedding_type != "relative"


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
    """Causal grouped-query attention over a static cache; the caches passed in have one row per sequence."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__(config, llm, make, config.max_seq_len)
        self.llm = llm

    def prefill(self, x: Tensor, rotation: Rotation, rows: Tensor) -> Tensor:
        """Fill slots 0..L-1 and attend causally among the L tokens.

        x [B, L, hidden]; rows int64 [B], the cache row of each sequence -> [B, L, hidden].
        """
        q, k, v = self.project(x, rotation)
        self._write(k, v, rows, torch.arange(x.shape[1], device=x.device)[None])
        keys, values = self._for_heads(k.transpose(1, 2), v.transpose(1, 2))
        attended = self.attend(q.transpose(1, 2), keys, values, causal=True)
        out: Tensor = self.dense(attended.transpose(1, 2).flatten(2))
        return out

    def _write(self, k: Tensor, v: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Write k and v [B, L, kv_heads, d] to rows int64 [B] of the caches, at slots int64 [B or 1, L]."""
        heads = torch.arange(self.kv_heads, device=k.device)[None, None, :]
        place = (rows[:, None, None], heads, slots[:, :, None])
        self.k_cache.index_put_(place, k)
        self.v_cache.index_put_(place, v)

    def _for_heads(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, kv_heads, S, d], repeated for the query heads that share them."""
        group = self.heads // self.kv_heads
        if group == 1:
            return keys, values
        # By index: torch 2.11 cannot export repeats beside a dynamic dimension.
        shared = torch.arange(self.heads, device=keys.device) // group
        return keys[:, shared], values[:, shared]

    def extend(self, x: Tensor, rotation: Rotation, positions: Tensor, mask: Tensor) -> Tensor:
        """Write the slots of the given tokens and attend to the live ones.

        x [B, L, hidden]; positions int64 [B, L], the slots to write; mask [B, 1 or heads, L, S], added to the scores
        of the first S slots -> [B, L, hidden]. One token on CUDA needs no mask if it says nothing but which slots are
        live.
        """
        batch, length = x.shape[:2]
        if _is_one(length) and has_decode_kernel(self.llm, x.dtype, x.device.type):
            return self._decode(x, rotation, positions)
        q, k, v = self.project(x, rotation)
        self._write(k, v, torch.arange(batch, device=x.device), positions)
        keys, values = self.k_cache[:, :, : mask.shape[-1]], self.v_cache[:, :, : mask.shape[-1]]
        if _is_one(length):
            # The query heads that share a key head form the rows of one small product, so keys are read once.
            q = q.reshape(batch, self.kv_heads, -1, self.head_size)
            attended = self.attend(q, keys, values, mask).reshape(batch, 1, -1)
        else:
            keys, values = self._for_heads(keys, values)
            attended = self.attend(q.transpose(1, 2), keys, values, mask)
            attended = attended.transpose(1, 2).flatten(2)
        return cast(Tensor, self.dense(attended))

    def _decode(self, x: Tensor, rotation: Rotation, positions: Tensor) -> Tensor:
        """:meth:`extend` for one token of each sequence, by a kernel."""
        from mmbuild.backends.torch.kernels.attention import decode_attention

        attended = decode_attention(
            *self._sums(x),
            *((None, None) if rotation is None else (table.flatten(1) for table in rotation)),
            self.k_cache,
            self.v_cache,
            positions[:, 0],
            self.scale,
            self.dense.input_factors,
        )
        return self.dense.of_factored(attended.flatten(1)[:, None])

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """The product of queries, keys and values for x [B, 1, hidden], its factors and its biases."""
        sums = self.qkv.sums([], [self.qkv.factored(x)])
        if sums is None:
            return self.qkv(x).flatten(1)[None], None, None, None
        return sums[0].parts, sums[0].row_factors, sums[0].factors, self.qkv.bias


def _is_one(size: object) -> bool:
    """Whether a size is statically 1; comparing a symbolic one would specialize it."""
    return isinstance(size, int) and size == 1


class CrossAttention(CachedProjections):
    """Attention to an encoder's output, whose keys and values are computed once per prompt."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__(config, llm, make, config.cross_len)

    def fill(self, states: Tensor) -> None:
        """Write keys and values of the encoder's output [B, S, hidden] to slots 0..S-1."""
        length = states.shape[1]
        width = self.heads * self.head_size
        kv = self.qkv.part(states, width, width + 2 * self.kv_heads * self.head_size)
        k, v = (part.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in kv.chunk(2, dim=-1))
        self.k_cache[:, :, :length] = k
        self.v_cache[:, :, :length] = v

    def decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, 1, hidden], mask [B, 1, 1, S], added to the scores -> [B, 1, hidden]."""
        batch, slots = x.shape[0], mask.shape[-1]
        q = self.qkv.part(x, 0, self.heads * self.head_size)
        q = q.view(batch, 1, self.heads, self.head_size).transpose(1, 2)
        keys, values = self.k_cache[:, :, :slots], self.v_cache[:, :, :slots]
        out: Tensor = self.dense(self.attend(q, keys, values, mask).reshape(batch, 1, -1))
        return out
