"""Sites: linear layers of a decoder layer that have the same input, and what produces that input.

Servers run the layers of a site as one, so they share per-tensor scales; and they share the scales of their inputs,
which are folded into whatever comes before: divided out of a norm's weight, or out of the rows of a linear layer if
nothing but a product with a positive number happens in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmbuild.models.families.facts import LlmFacts

Condition = Callable[[LlmFacts], bool]


@dataclass(frozen=True, slots=True)
class Site:
    """Linear layers with one input.

    Attributes:
        linears: Their names below a decoder layer.
        norm: The norm that produces the input, if one does.
        rows: Otherwise the linear layer whose outputs, one by one, become the input.
        foldable: Whether scales of the input can be folded into ``norm`` or ``rows``.
    """

    linears: tuple[str, ...]
    norm: str | None
    rows: str | None
    foldable: Condition


def _norm_first(llm: LlmFacts) -> bool:
    """Whether norms come directly before layers: after the sum, the residual would be scaled too."""
    return llm.layernorm_position == "pre_layernorm"


def _own_values(llm: LlmFacts) -> bool:
    """Whether each query head has its own values: under grouped-query attention several inputs of the output
    projection are sums over the same value rows, which cannot be scaled for each of them."""
    return llm.num_key_value_heads == llm.num_attention_heads


def _gated(llm: LlmFacts) -> bool:
    """Whether the input is a product with the outputs of ``rows``."""
    return llm.mlp_type == "GatedMLP"


def _relu(llm: LlmFacts) -> bool:
    """Whether the activation commutes with positive factors."""
    return llm.hidden_act == "relu"


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_VALUES = "self_attn.v_proj"
_SITES: Mapping[str, tuple[Site, ...]] = {
    "LlamaForCausalLM": (
        Site(_QKV, "input_layernorm", None, _norm_first),
        Site(("self_attn.o_proj",), None, _VALUES, _own_values),
        Site(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm", None, _norm_first),
        Site(("mlp.down_proj",), None, "mlp.up_proj", _gated),
    ),
    "OPTForCausalLM": (
        Site(_QKV, "self_attn_layer_norm", None, _norm_first),
        Site(("self_attn.out_proj",), None, _VALUES, _own_values),
        Site(("fc1",), "final_layer_norm", None, _norm_first),
        Site(("fc2",), None, "fc1", _relu),
    ),
}
"""By architecture, in the order of the forward pass."""


def sites(llm: LlmFacts) -> tuple[Site, ...]:
    """The sites of each layer of ``llm``."""
    return _SITES[llm.architecture]


def linear_names(llm: LlmFacts) -> tuple[str, ...]:
    """Names of the linear layers below a decoder layer."""
    return tuple(name for site in sites(llm) for name in site.linears)
