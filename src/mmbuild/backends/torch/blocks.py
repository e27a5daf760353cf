"""Building blocks of all architectures, with TensorRT-LLM's tensor names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.linear import MakeLinear, both, frozen_parameter
from mmbuild.models.errors import EngineError
from mmbuild.models.families.facts import LlmFacts


class Weight(nn.Module):
    """A named weight without a forward method."""

    def __init__(self, config: EngineConfig, *shape: int) -> None:
        super().__init__()
        self.weight = frozen_parameter(torch.empty(*shape, dtype=config.torch_dtype))


class RmsNorm(Weight):
    """Root-mean-square norm, computed in float32; weight [hidden] is applied in the model's dtype."""

    def __init__(self, config: EngineConfig, llm: LlmFacts) -> None:
        super().__init__(config, llm.hidden_size)
        self.epsilon = llm.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(x.dtype)


class LayerNorm(Weight):
    """Layer norm with weight and bias [hidden]."""

    def __init__(self, config: EngineConfig, llm: LlmFacts) -> None:
        super().__init__(config, llm.hidden_size)
        self.bias = frozen_parameter(torch.empty(llm.hidden_size, dtype=config.torch_dtype))
        self.epsilon = llm.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


_NORMS: Mapping[str, type[RmsNorm] | type[LayerNorm]] = {"RmsNorm": RmsNorm, "LayerNorm": LayerNorm}


def norm(config: EngineConfig, llm: LlmFacts) -> nn.Module:
    """A norm of the model's kind."""
    return _NORMS[llm.layernorm_type](config, llm)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# By name in transformers' ACT2FN, whose `gelu_new` is an implementation of the tanh form.
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of ``hidden_act`` in a config.

    Raises:
        EngineError: MM502, it is not supported.
    """
    if name not in _ACTIVATIONS:
        raise EngineError(
            f"activation `{name}` is not supported; supported are {', '.join(sorted(_ACTIVATIONS))}",
            code="MM502",
            hint="use a model with one of these activations in its MLP",
        )
    return _ACTIVATIONS[name]


class Mlp(nn.Module):
    """The MLP, gated or not. As in TensorRT-LLM, ``fc`` is the activated projection and ``gate`` multiplies it."""

    def __init__(self, config: EngineConfig, llm: LlmFacts, make: MakeLinear) -> None:
        super().__init__()
        width, bias = llm.intermediate_size // config.tensor_parallel, llm.has_mlp_bias
        self.fc = make(llm.hidden_size, width, bias=bias)
        self.gate = make(llm.hidden_size, width, bias=bias) if llm.mlp_type == "GatedMLP" else None
        self.proj = make(width, llm.hidden_size, bias=bias, reduce=True)
        self.activation = activation(llm.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, hidden] -> [B, L, hidden]."""
        if self.gate is None:
            y = self.activation(self.fc(x))
        else:
            fc, gate = both(self.fc, self.gate, x)
            y = self.activation(fc) * gate
        out: Tensor = self.proj(y)
        return out


def embed(ids: Tensor, vocab_size: int, words: Tensor, prompt_table: Tensor) -> Tensor:
    """ids [B, L] -> [B, L, hidden]; an id >= vocab_size is row ``id - vocab_size`` of the prompt table."""
    visual = ids >= vocab_size
    tokens = F.embedding(torch.where(visual, 0, ids), words)
    features = F.embedding(torch.where(visual, ids - vocab_size, 0), prompt_table)
    return torch.where(visual[..., None], features, tokens)


def additive_mask(live: Tensor, dtype: torch.dtype) -> Tensor:
    """bool -> the same shape in ``dtype``: 0 where true, the smallest number elsewhere."""
    zero = torch.zeros((), dtype=dtype, device=live.device)
    return torch.where(live, zero, torch.finfo(dtype).min)


def attention_scale(llm: LlmFacts) -> float:
    """Factor of the attention scores."""
    return 1.0 / (llm.q_scaling * math.sqrt(llm.head_size))


def embedding_scale(llm: LlmFacts) -> float:
    """Factor of the embeddings."""
    return math.sqrt(llm.hidden_size) if llm.has_embedding_scale else 1.0
