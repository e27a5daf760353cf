"""The LLaMA decoder under TensorRT-LLM's tensor names, written to be exported.

Two ways through the same layers. *Prefill* runs whole prompts, right-padded to one length: padding sits
behind every real token, so a causal mask alone keeps it out, and its cache slots are overwritten or masked
later. *Decode* runs one token per sequence at that sequence's own position and attends to the live slots.

The KV caches are buffers (:func:`cache_shape`) that the session owns and binds
to both packages. Positions are inputs, never state: a one-element buffer that a graph mutates is constant-folded
by Inductor (pytorch #165444).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.engine import rotary
from mmbuild.engine.config import EngineConfig
from mmbuild.engine.layouts import Layout
from mmbuild.engine.linear import Linear, MakeLinear, frozen, linear_maker


def cache_shape(config: EngineConfig) -> tuple[int, int, int, int]:
    """Shape of one layer's key (or value) cache: [batch, kv_heads, slots, head_size].

    One slot more than a sequence can fill: were the live slots ever all of them, torch.export would
    specialize on that length (a slice of everything is contiguous, a shorter one is not).
    """
    return (config.max_batch_size, config.local_kv_heads, config.max_seq_len + 1, config.head_size)


class Weight(nn.Module):
    """A named weight without a forward of its own."""

    def __init__(self, config: EngineConfig, *shape: int) -> None:
        super().__init__()
        self.weight = frozen(torch.empty(*shape, dtype=config.torch_dtype))


class RmsNorm(Weight):
    """Root-mean-square norm, in float32 inside, weight [hidden] applied in the model's dtype."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.epsilon = config.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(x.dtype)


class Mlp(nn.Module):
    """Gated MLP. TensorRT-LLM calls Hugging Face's gate_proj ``fc`` and its up_proj ``gate``."""

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        width = config.intermediate_size // config.tensor_parallel
        self.fc = make(config.hidden_size, width)
        self.gate = make(config.hidden_size, width)
        self.proj = make(width, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, hidden] -> [B, L, hidden]."""
        y: Tensor = self.proj(F.silu(self.fc(x)) * self.gate(x))
        return y


class Attention(nn.Module):
    """Grouped-query attention over a static cache."""

    k_cache: Tensor
    v_cache: Tensor

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = (
            config.local_heads,
            config.local_kv_heads,
            config.head_size,
        )
        width = (self.heads + 2 * self.kv_heads) * self.head_size
        self.qkv = make(config.hidden_size, width)
        self.dense = make(self.heads * self.head_size, config.hidden_size)
        self.register_buffer("k_cache", torch.zeros(cache_shape(config), dtype=config.torch_dtype))
        self.register_buffer("v_cache", torch.zeros(cache_shape(config), dtype=config.torch_dtype))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, L, hidden] -> rotated q [B, L, heads, d], rotated k and v [B, L, kv_heads, d]."""
        sizes = [self.heads * self.head_size] + [self.kv_heads * self.head_size] * 2
        q, k, v = (part.unflatten(-1, (-1, self.head_size)) for part in self.qkv(x).split(sizes, dim=-1))
        return rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin), v

    def prefill(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Fill slots 0..L-1 and attend causally among the L tokens: [B, L, hidden] -> the same."""
        batch, length, _ = x.shape
        q, k, v = self.project(x, cos, sin)
        self.k_cache[:batch, :, :length] = k.transpose(1, 2)
        self.v_cache[:batch, :, :length] = v.transpose(1, 2)
        group = self.heads // self.kv_heads
        if group > 1:
            k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.dense(y.transpose(1, 2).flatten(2))
        return out

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, live: Tensor) -> Tensor:
        """Write one slot per sequence, attend to the live ones.

        x [B, 1, hidden]; positions int64 [B]; live bool [B, 1, 1, slots], true where a slot holds a token of
        that sequence (this one included) -> [B, 1, hidden].
        """
        batch, slots = x.shape[0], live.shape[-1]
        q, k, v = self.project(x, cos, sin)
        rows = torch.arange(batch, device=x.device)[:, None]
        heads = torch.arange(self.kv_heads, device=x.device)[None, :]
        self.k_cache.index_put_((rows, heads, positions[:, None]), k[:, 0])
        self.v_cache.index_put_((rows, heads, positions[:, None]), v[:, 0])
        # The query heads that share a key head become rows of one small product: keys are read once.
        q = q.reshape(batch, self.kv_heads, -1, self.head_size)
        keys, values = self.k_cache[:batch, :, :slots], self.v_cache[:batch, :, :slots]
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=live)
        out: Tensor = self.dense(y.reshape(batch, 1, -1))
        return out


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config)
        self.attention = Attention(config, make)
        self.post_layernorm = RmsNorm(config)
        self.mlp = Mlp(config, make)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what attention made of x, then the MLP: both [B, L, hidden]."""
        x = x + attended
        y: Tensor = x + self.mlp(self.post_layernorm(x))
        return y


class Transformer(nn.Module):
    """Embedding, layers and final norm, under the checkpoint's prefix ``transformer.``."""

    def __init__(self, config: EngineConfig, make: MakeLinear) -> None:
        super().__init__()
        self.vocab_embedding = Weight(config, config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, make) for _ in range(config.num_hidden_layers))
        self.ln_f = RmsNorm(config)


class Llama(nn.Module):
    """A whole decoder of one rank."""

    rotary_inv_freq: Tensor

    def __init__(self, config: EngineConfig, layout: Layout) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config, linear_maker(config, layout))
        padded = -(-config.vocab_size // config.tensor_parallel)
        self.lm_head = Linear(config, layout, config.hidden_size, padded)
        # Real values: Inductor inlines constants of up to 8 elements instead of leaving them to the session.
        self.register_buffer(
            "rotary_inv_freq", rotary.inverse_frequencies(config).to(torch.get_default_device())
        )

    def embed(self, ids: Tensor, prompt_table: Tensor) -> Tensor:
        """ids [B, L] -> [B, L, hidden]; an id >= vocab_size is row ``id - vocab_size`` of the prompt table."""
        vocab = self.config.vocab_size
        visual = ids >= vocab
        words = F.embedding(torch.where(visual, 0, ids), self.transformer.vocab_embedding.weight)
        features = F.embedding(torch.where(visual, ids - vocab, 0), prompt_table)
        return torch.where(visual[..., None], features, words)

    def logits(self, x: Tensor) -> Tensor:
        """Last hidden states [B, hidden] -> float32 [B, vocab_size]."""
        y: Tensor = self.lm_head(self.transformer.ln_f(x))
        return y.float()[:, : self.config.vocab_size]


class Prefill(nn.Module):
    """Whole prompts in, logits of each one's last token out."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, lengths: Tensor, prompt_table: Tensor) -> Tensor:
        """ids int64 [B, L] right-padded, lengths int64 [B], prompt_table [rows, hidden] -> float32 [B, vocab]."""
        model = self.model
        positions = torch.arange(ids.shape[1], device=ids.device)[None, :]
        cos, sin = rotary.tables(positions, model.rotary_inv_freq, model.config.torch_dtype)
        x = model.embed(ids, prompt_table)
        for layer in model.transformer.layers:
            x = layer.finish(x, layer.attention.prefill(layer.input_layernorm(x), cos, sin))
        last = x[torch.arange(x.shape[0], device=x.device), lengths - 1]
        return model.logits(last)


class Decode(nn.Module):
    """One token per sequence in, the next one's logits out."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        """ids int64 [B], positions int64 [B] of those tokens, slots int64 [S] = 0..S-1 -> float32 [B, vocab].

        S, how much of the cache is looked at, must exceed every position; the length of ``slots`` carries it
        so that a graph reads live tokens and not the dead rest of the cache.
        """
        model = self.model
        live = (slots[None, :] <= positions[:, None])[:, None, None, :]
        cos, sin = rotary.tables(positions[:, None], model.rotary_inv_freq, model.config.torch_dtype)
        x = F.embedding(ids, model.transformer.vocab_embedding.weight)[:, None]
        for layer in model.transformer.layers:
            attended = layer.attention.decode(layer.input_layernorm(x), cos, sin, positions, live)
            x = layer.finish(x, attended)
        return model.logits(x[:, 0])
