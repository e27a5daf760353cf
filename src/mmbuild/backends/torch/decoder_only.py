"""Decoder-only language models (LLaMA, OPT), written for export in parts: embedding, one layer, head.

*Prefill* runs whole prompts, right-padded to the same length. Padding comes after all real tokens, so the causal mask
hides it, and its cache slots are overwritten or masked later. *Extend* runs some tokens of each sequence, each at its
own position, and attends to the live slots: a part of a prompt, or one token to decode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch import positions as rope
from mmbuild.backends.torch.attention import Attention
from mmbuild.backends.torch.blocks import Mlp, Weight, additive_mask, embed, norm
from mmbuild.backends.torch.calibrated_linear import linear_maker
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.distributed.collectives import gather_vocabulary
from mmbuild.backends.torch.linear import Layout, Linear, MakeLinear


class Layer(nn.Module):
    """One decoder layer, norms before or after attention and MLP."""

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        llm = config.llm
        self.input_layernorm = norm(config, llm)
        self.attention = Attention(config, llm, make)
        self.post_layernorm = norm(config, llm)
        self.mlp = Mlp(config, llm, make)
        self.before = llm.layernorm_position == "pre_layernorm"

    def prefill(self, x: Tensor, rows: Tensor, *rotation: Tensor) -> Tensor:
        """x [B, L, hidden], cache rows int64 [B], cosines and sines if positions are rotary -> [B, L, hidden]."""
        return self._finish(x, self.attention.prefill(self._enter(x), rotation or None, rows))

    def extend(self, x: Tensor, positions: Tensor, mask: Tensor, *rotation: Tensor) -> Tensor:
        """The same for tokens at positions [B, L]; mask as in :meth:`Attention.extend`."""
        return self._finish(x, self.attention.extend(self._enter(x), rotation or None, positions, mask))

    def _enter(self, x: Tensor) -> Tensor:
        """Input of attention for x [B, L, hidden]."""
        return self.input_layernorm(x) if self.before else x

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the output of attention, then the MLP: both [B, L, hidden]."""
        if self.before:
            x = x + attended
            y: Tensor = x + self.mlp(self.post_layernorm(x))
            return y
        x = self.input_layernorm(x + attended)
        done: Tensor = self.post_layernorm(x + self.mlp(x))
        return done


class Transformer(nn.Module):
    """Embeddings, layers and final norm; prefix ``transformer.`` in the checkpoint."""

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        llm = config.llm
        self.vocab_embedding = Weight(config, llm.vocab_size, llm.hidden_size)
        learned = llm.position_embedding_type == "learned_absolute"
        self.position_embedding = (
            Weight(config, llm.max_position_embeddings, llm.hidden_size) if learned else None
        )
        self.layers = nn.ModuleList(Layer(config, make) for _ in range(llm.num_hidden_layers))
        self.ln_f = norm(config, llm) if llm.has_model_final_layernorm else None


class CausalLm(nn.Module):
    """A whole decoder of one rank."""

    def __init__(self, config: EngineConfig, layout: Layout) -> None:
        super().__init__()
        self.config = config
        llm = config.llm
        self.transformer = Transformer(config, linear_maker(config, layout))
        self.lm_head = Linear(config, layout, llm.hidden_size, -(-llm.vocab_size // config.tensor_parallel))
        if llm.position_embedding_type == "rope_gpt_neox":
            frequencies = rope.inverse_frequencies(llm).to(torch.get_default_device())
            self.register_buffer("rotary_inv_freq", frequencies)

    def embed(
        self, ids: Tensor, positions: Tensor, slots: Tensor, prompt_table: Tensor
    ) -> tuple[Tensor, ...]:
        """The input of the first layer, and what all layers share.

        Args:
            ids: int64 [B, L].
            positions: int64 [B, L] of those tokens.
            slots: int64 [S] = 0..S-1: its length is the number of cache slots that layers read.
            prompt_table: [rows, hidden].

        Returns:
            x [B, L, hidden]; mask [B, 1, L, S] to add to attention scores; cosines and sines [B, L, 1, head_size] if
            positions are rotary.
        """
        words = self.transformer.vocab_embedding.weight
        x = embed(ids, self.config.vocab_size, words, prompt_table)
        mask = additive_mask(slots <= positions[:, :, None], x.dtype)[:, None]
        table = self.transformer.position_embedding
        if table is not None:
            # Padding has the position of the spare slot, which may be beyond the table.
            x = x + F.embedding(positions.clamp_max(table.weight.shape[0] - 1), table.weight)
        if self.config.llm.position_embedding_type != "rope_gpt_neox":
            return x, mask
        frequencies: Tensor = self.rotary_inv_freq
        return x, mask, *rope.tables(positions, frequencies, self.config.torch_dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Last hidden states [B, hidden] -> float32 [B, vocab_size]."""
        final = self.transformer.ln_f
        y = self.lm_head(x if final is None else final(x))
        return gather_vocabulary(y, self.config.tensor_parallel).float()[:, : self.config.vocab_size]
