"""Encoder-decoder language models (T5, mBART's decoder), written for export in parts.

*Encode* runs once per batch: T5's encoder over prompts and prompt table, or no encoder if the visual features are
already encoded (Nougat). Then *fill* writes the cross-attention caches of each decoder layer. *Decode* runs one token
per sequence; the first is the model's start token, so the decoder needs no prefill.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch import positions as relative_position
from mmbuild.backends.torch.attention import Attention, CrossAttention, EncoderAttention
from mmbuild.backends.torch.blocks import Mlp, Weight, additive_mask, embed, embedding_scale, norm
from mmbuild.backends.torch.calibrated_linear import linear_maker
from mmbuild.backends.torch.config import EngineConfig, local_heads
from mmbuild.backends.torch.distributed.collectives import gather_vocabulary
from mmbuild.backends.torch.linear import Layout, Linear, MakeLinear
from mmbuild.models.families.facts import LlmFacts


class Embedding(nn.Module):
    """Token embeddings, and learned positions and a norm if the model has them."""

    def __init__(self, config: EngineConfig, llm: LlmFacts) -> None:
        super().__init__()
        self.vocab_embedding = Weight(config, llm.vocab_size, llm.hidden_size)
        learned = llm.position_embedding_type == "learned_absolute"
        self.position_embedding = (
            Weight(config, llm.max_position_embeddings, llm.hidden_size) if learned else None
        )
        self.embedding_layernorm = norm(config, llm) if llm.has_embedding_layernorm else None
        self.scale = embedding_scale(llm)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids and positions int64 [B, L] -> [B, L, hidden]."""
        x = F.embedding(ids, self.vocab_embedding.weight)
        x = x * self.scale if self.scale != 1.0 else x
        if self.position_embedding is not None:
            # A row without a sequence has the position of the spare slot, which may be beyond the table.
            table = self.position_embedding.weight
            x = x + F.embedding(positions.clamp_max(table.shape[0] - 1), table)
        return x if self.embedding_layernorm is None else self.embedding_layernorm(x)


class EncoderLayer(nn.Module):
    """One layer of T5's encoder."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__()
        self.attention = EncoderAttention(config, llm, make)
        self.attention_layernorm = norm(config, llm)
        self.mlp = Mlp(config, llm, make)
        self.mlp_layernorm = norm(config, llm)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, L, hidden], mask [B, heads, L, L] -> [B, L, hidden]."""
        x = x + self.attention(self.attention_layernorm(x), mask)
        y: Tensor = x + self.mlp(self.mlp_layernorm(x))
        return y


class Encoder(nn.Module):
    """T5's encoder, with the names of the checkpoint's ``encoder`` component."""

    position_buckets: Tensor

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__()
        self.reach, self.vocab_size = config.max_input_len, llm.vocab_size
        self.embedding = Embedding(config, llm)
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(config, llm, make) for _ in range(llm.num_hidden_layers)
        )
        _hold_table(self.encoder_layers[0].attention, config, llm)
        self.final_layernorm = norm(config, llm)
        buckets = relative_position.buckets(llm, self.reach, both_ways=True)
        self.register_buffer("position_buckets", buckets.to(torch.get_default_device()))

    def embed(self, ids: Tensor, lengths: Tensor, prompt_table: Tensor) -> tuple[Tensor, Tensor]:
        """ids int64 [B, L] right-padded, lengths int64 [B], prompt_table [rows, hidden] -> x [B, L, hidden], and the
        mask of all layers [B, heads, L, L], the relative bias included."""
        x = embed(ids, self.vocab_size, self.embedding.vocab_embedding.weight, prompt_table)
        table = self.encoder_layers[0].attention.rel_attn_table
        bias = relative_position.encoder_bias(table, self.position_buckets, ids.shape[1], self.reach)
        slots = torch.arange(ids.shape[1], device=ids.device)
        known = (slots[None, :] < lengths[:, None])[:, None, None, :]
        return x, torch.where(known, bias[None], torch.finfo(bias.dtype).min)

    def finish(self, x: Tensor) -> Tensor:
        """Output of the last layer [B, L, hidden] -> states for cross-attention."""
        y: Tensor = self.final_layernorm(x)
        return y


class DecoderLayer(nn.Module):
    """One decoder layer with cross-attention, norms before each part."""

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        llm = config.llm
        self.self_attention = Attention(config, llm, make)
        self.self_attention_layernorm = norm(config, llm)
        self.cross_attention = CrossAttention(config, llm, make)
        self.cross_attention_layernorm = norm(config, llm)
        self.mlp = Mlp(config, llm, make)
        self.mlp_layernorm = norm(config, llm)

    def fill(self, states: Tensor) -> Tensor:
        """Fill the cross-attention caches from encoded states [B, S, hidden] -> S, int64 [1], because a graph must
        return something."""
        self.cross_attention.fill(states)
        return torch.full((1,), states.shape[1], device=states.device)

    def decode(self, x: Tensor, positions: Tensor, mask: Tensor, cross_mask: Tensor) -> Tensor:
        """x [B, 1, hidden], positions [B, 1] -> the same; masks as in :mod:`mmbuild.backends.torch.attention`."""
        x = x + self.self_attention.extend(self.self_attention_layernorm(x), None, positions, mask)
        x = x + self.cross_attention.decode(self.cross_attention_layernorm(x), cross_mask)
        y: Tensor = x + self.mlp(self.mlp_layernorm(x))
        return y


class Decoder(nn.Module):
    """The decoder, with the names of the checkpoint's ``decoder`` component."""

    position_buckets: Tensor

    def __init__(self, config: EngineConfig, layout: Layout, make: MakeLinear) -> None:
        super().__init__()
        llm = config.llm
        self.config = config
        self.embedding = Embedding(config, llm)
        self.decoder_layers = nn.ModuleList(DecoderLayer(config, make) for _ in range(llm.num_hidden_layers))
        self.final_layernorm = norm(config, llm) if llm.has_model_final_layernorm else None
        self.lm_head = Linear(config, layout, llm.hidden_size, -(-llm.vocab_size // config.tensor_parallel))
        self.relative = llm.position_embedding_type == "relative"
        if self.relative:
            _hold_table(self.decoder_layers[0].self_attention, config, llm)
            buckets = relative_position.buckets(llm, config.max_seq_len, both_ways=False)
            self.register_buffer("position_buckets", buckets.to(torch.get_default_device()))

    def embed(
        self, ids: Tensor, positions: Tensor, slots: Tensor, lengths: Tensor, cross_slots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The input of the first layer, and what all layers share.

        Args:
            ids: int64 [B, 1].
            positions: int64 [B, 1] of those tokens.
            slots: int64 [S] = 0..S-1: its length is the number of cache slots that layers read.
            lengths: int64 [B] of the encoded prompts.
            cross_slots: int64 [C] = 0..C-1, C at least the longest length.

        Returns:
            x [B, 1, hidden]; mask of self-attention [B, 1 or heads, 1, S], the relative bias included; mask of
            cross-attention [B, 1, 1, C].
        """
        x = self.embedding(ids, positions)
        cross = additive_mask(cross_slots[None, :] < lengths[:, None], x.dtype)[:, None, None, :]
        live = (slots[None, :] <= positions)[:, None, None, :]
        if not self.relative:
            return x, additive_mask(live, x.dtype), cross
        table = self.decoder_layers[0].self_attention.rel_attn_table
        bias = relative_position.decoder_bias(table, self.position_buckets, positions[:, 0], slots)
        return x, torch.where(live, bias, torch.finfo(bias.dtype).min), cross

    def logits(self, x: Tensor) -> Tensor:
        """Last hidden states [B, hidden] -> float32 [B, vocab_size]."""
        llm, ranks = self.config.llm, self.config.tensor_parallel
        x = x if self.final_layernorm is None else self.final_layernorm(x)
        x = x * llm.hidden_size**-0.5 if llm.rescale_before_lm_head else x
        return gather_vocabulary(self.lm_head(x), ranks).float()[:, : llm.vocab_size]


def _hold_table(attention: nn.Module, config: EngineConfig, llm: LlmFacts) -> None:
    """Register T5's table of relative positions [heads, buckets], which is in the first layer and shared by all."""
    shape = (local_heads(llm, config.tensor_parallel), llm.num_buckets)
    table = torch.empty(shape, dtype=config.torch_dtype)
    attention.register_parameter("rel_attn_table", nn.Parameter(table, requires_grad=False))


class EncoderDecoder(nn.Module):
    """A whole encoder-decoder of one rank; without an encoder if the features are already encoded."""

    def __init__(self, config: EngineConfig, layout: Layout) -> None:
        super().__init__()
        self.config = config
        make = linear_maker(config, layout)
        self.encoder = Encoder(config, config.encoder, make) if config.encoder else None
        self.decoder = Decoder(config, layout, make)
