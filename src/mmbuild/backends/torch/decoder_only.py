"""Decoder-only language models (LLaMA, OPT), written to be exported.

Two ways through the same layers. *Prefill* runs whole prompts, right-padded to one length: padding sits
behind every real token, so a causal mask alone keeps it out, and its cache slots are overwritten or masked
later. *Decode* runs one token per sequence at that sequence's own position and attends to the live slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch import positions as rope
from mmbuild.backends.torch.attention import Attention, Rotation
from mmbuild.backends.torch.blocks import Mlp, Weight, embed, norm
from mmbuild.backends.torch.calibrated_linear import linear_maker
from mmbuild.backends.torch.collectives import gather_vocabulary
from mmbuild.backends.torch.config import EngineConfig
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
        """What attention sees of x [B, L, hidden]."""
        return self.input_layernorm(x) if self.before else x

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what attention made of x, then the MLP: both [B, L, hidden]."""
        if self.before:
            x = x + attended
            y: Tensor = x + self.mlp(self.post_layernorm(x))
            return y
        x = self.input_layernorm(x + attended)
        done: Tensor = self.post_layernorm(x + self.mlp(x))
        return done


class Transformer(nn.Module):
    """Embeddings, layers and final norm, under the checkpoint's prefix ``transformer.``."""

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
            # Real values: Inductor inlines constants of up to 8 elements instead of leaving them to the session.
            frequencies = rope.inverse_frequencies(llm).to(torch.get_default_device())
            self.register_buffer("rotary_inv_freq", frequencies)

    def rotation(self, positions: Tensor) -> Rotation:
        """What queries and keys at positions [B, L] are rotated by; None where positions are not rotary."""
        if self.config.llm.position_embedding_type != "rope_gpt_neox":
            return None
        frequencies: Tensor = self.rotary_inv_freq
        return rope.tables(positions, frequencies, self.config.torch_dtype)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [B, L, hidden] with the embeddings of positions [1 or B, L], where they are learned."""
        table = self.transformer.position_embedding
        return x if table is None else x + F.embedding(positions, table.weight)

    def logits(self, x: Tensor) -> Tensor:
        """Last hidden states [B, hidden] -> float32 [B, vocab_size]."""
        final = self.transformer.ln_f
        y = self.lm_head(x if final is None else final(x))
        return gather_vocabulary(y, self.config.tensor_parallel).float()[:, : self.config.vocab_size]


class Prefill(nn.Module):
    """Whole prompts in, logits of each one's last token out."""

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
    """One token per sequence in, the next one's logits out."""

    def __init__(self, model: CausalLm) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        """ids int64 [B], positions int64 [B] of those tokens, slots int64 [S] = 0..S-1 -> float32 [B, vocab].

        S, how much of the cache is looked at, must exceed every position; the length of ``slots`` carries it
        so that a graph reads live tokens and not the dead rest of the cache.
        """
        model = self.model
        live = (slots[None, :] <= positions[:, None])[:, None, None, :]
        rotation = model.rotation(positions[:, None])
        x = F.embedding(ids, model.transformer.vocab_embedding.weight)[:, None]
        x = model.place(x, positions[:, None])
        for layer in model.transformer.layers:
            x = layer.finish(x, layer.attention.decode(layer.enter(x), rotation, positions, live))
        return model.logits(x[:, 0])
