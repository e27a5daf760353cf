"""Decoder-only language models (LLaMA, OPT), written for export.

*Prefill* runs whole prompts, right-padded to the same length. Padding comes after all real tokens, so the causal mask
hides it, and its cache slots are overwritten or masked later. *Decode* runs one token per sequence, each at its own
position, and attends to the live slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch import positions as rope
from mmbuild.backends.torch.attention import Attention, Rotation
from mmbuild.backends.torch.blocks import Mlp, Weight, embed, norm
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

    def enter(self, x: Tensor) -> Tensor:
        """Input of attention for x [B, L, hidden]."""
        return self.input_layernorm(x) if self.before else x

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
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
            # Real values, because Inductor inlines constants of up to 8 elements instead of binding them later.
            frequencies = rope.inverse_frequencies(llm).to(torch.get_default_device())
            self.register_buffer("rotary_inv_freq", frequencies)

    def rotation(self, positions: Tensor) -> Rotation:
        """Rotation of queries and keys at positions [B, L]; None if positions are not rotary."""
        if self.config.llm.position_embedding_type != "rope_gpt_neox":
            return None
        frequencies: Tensor = self.rotary_inv_freq
        return rope.tables(positions, frequencies, self.config.torch_dtype)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add learned embeddings of positions [1 or B, L], if the model has them, to x [B, L, hidden]."""
        table = self.transformer.position_embedding
        return x if table is None else x + F.embedding(positions, table.weight)

    def logits(self, x: Tensor) -> Tensor:
        """Last hidden states [B, hidden] -> float32 [B, vocab_size]."""
        final = self.transformer.ln_f
        y = self.lm_head(x if final is None else final(x))
        return gather_vocabulary(y, self.config.tensor_parallel).float()[:, : self.config.vocab_size]


class Prefill(nn.Module):
    """Prefill graph: whole prompts to logits of each prompt's last token."""

    def __init__(self, model: CausalLm) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, lengths: Tensor, prompt_table: Tensor) -> Tensor:
        """ids int64 [B, L] right-padded, lengths int64 [B], prompt_table [rows, hidden] -> float32 [B, vocab]."""
        model = self.model
        positions = torch.arange(ids.shape[1], device=ids.device)[None, :]
        rotation = model.rotation(positions)
        words = model.transformer.vocab_embedding.weight
        x = model.place(embed(ids, model.config.vocab_size, words, prompt_table), positions)
        for layer in model.transformer.layers:
            x = layer.finish(x, layer.attention.prefill(layer.enter(x), rotation))
        last = x[torch.arange(x.shape[0], device=x.device), lengths - 1]
        return model.logits(last)


class Decode(nn.Module):
    """Decode graph: one token per sequence to logits of the next one."""

    def __init__(self, model: CausalLm) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        """ids int64 [B], positions int64 [B] of those tokens, slots int64 [S] = 0..S-1 -> float32 [B, vocab].

        S is the number of cache slots to read and must exceed every position. It is passed as the length of
        ``slots``, so that a graph reads only live tokens.
        """
        model = self.model
        live = (slots[None, :] <= positions[:, None])[:, None, None, :]
        rotation = model.rotation(positions[:, None])
        x = F.embedding(ids, model.transformer.vocab_embedding.weight)[:, None]
        x = model.place(x, positions[:, None])
        for layer in model.transformer.layers:
            x = layer.finish(x, layer.attention.decode(layer.enter(x), rotation, positions, live))
        return model.logits(x[:, 0])
