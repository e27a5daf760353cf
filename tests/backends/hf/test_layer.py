"""One layer: folded scales leave what it computes unchanged, and layers that servers run as one share a scale."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmbuild.backends.hf import arithmetic, fit
from mmbuild.backends.hf.forms import FORMS
from mmbuild.backends.hf.inputs import Inputs
from mmbuild.backends.hf.layer import How, quantize_layer, stored_shapes
from mmbuild.backends.hf.sites import sites
from mmbuild.models.checkpoint.weight_only_fit import Moments
from mmbuild.models.families.facts import LlmFacts
from support.hf.checkpoints import unpack

WIDTH, HIDDEN, HEADS = 64, 96, 4
LLAMA = LlmFacts(
    architecture="LlamaForCausalLM",
    vocab_size=10,
    hidden_size=WIDTH,
    num_hidden_layers=1,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    head_size=WIDTH // HEADS,
    intermediate_size=HIDDEN,
    hidden_act="silu",
    norm_epsilon=1e-6,
    max_position_embeddings=32,
    position_embedding_type="rope_gpt_neox",
)
OPT = replace(
    LLAMA,
    architecture="OPTForCausalLM",
    hidden_act="relu",
    mlp_type="MLP",
    layernorm_type="LayerNorm",
    position_embedding_type="learned_absolute",
)


def layer_of(llm: LlmFacts, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    values = llm.num_key_value_heads * llm.head_size
    sizes = {"q_proj": WIDTH, "k_proj": values, "v_proj": values}
    layer, biased = {}, llm.architecture == "OPTForCausalLM"
    for site in sites(llm):
        for linear in site.linears:
            inputs = HIDDEN if linear.endswith(("down_proj", "fc2")) else WIDTH
            wide = linear.endswith(("gate_proj", "up_proj", "fc1"))
            outputs = sizes.get(linear.rpartition(".")[2], HIDDEN if wide else WIDTH)
            layer[f"{linear}.weight"] = torch.randn(outputs, inputs, generator=random) / inputs**0.5
            if biased:
                layer[f"{linear}.bias"] = torch.randn(outputs, generator=random)
        if site.norm is not None:
            layer[f"{site.norm}.weight"] = torch.rand(WIDTH, generator=random) + 0.5
            if biased:
                layer[f"{site.norm}.bias"] = torch.randn(WIDTH, generator=random)
    return layer


def inputs_of(llm: LlmFacts) -> dict[str, Inputs]:
    """Inputs of each site, some channels of which are much larger than others."""
    random, found = torch.Generator().manual_seed(1), {}
    for site in sites(llm):
        width = HIDDEN if site.linears[0].endswith(("down_proj", "fc2")) else WIDTH
        rows = torch.randn(64, width, generator=random) * torch.logspace(-1, 1, width)
        moments = Moments(rows.mean(dim=0), rows.var(dim=0))
        found[site.linears[0]] = Inputs(moments, rows.abs().mean(dim=0), rows.abs().amax(dim=0), rows)
    return found


def widened(stored: dict[str, torch.Tensor], llm: LlmFacts, how: How) -> dict[str, torch.Tensor]:
    """A layer's tensors with quantized weights as floats."""
    layer = {name: tensor for name, tensor in stored.items() if name.endswith((".bias", "norm.weight"))}
    for site in sites(llm):
        for linear in site.linears:
            values = stored[f"{linear}.{how.form.weight}"]
            if how.form.packed:
                values = unpack(values, how.form.bits, int(stored[f"{linear}.weight_shape"][1]))
            layer[f"{linear}.weight"] = arithmetic.widened(values, stored[f"{linear}.weight_scale"])
    return layer


def forward(layer: dict[str, torch.Tensor], llm: LlmFacts, hidden: torch.Tensor) -> torch.Tensor:
    """A layer with attention that averages over all tokens: every path from inputs to outputs that scales take."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer[f"{name}.weight"], layer.get(f"{name}.bias"))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        if llm.architecture == "OPTForCausalLM":
            return torch.nn.functional.layer_norm(
                x, (WIDTH,), layer[f"{name}.weight"], layer[f"{name}.bias"], 1e-6
            )
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * layer[f"{name}.weight"]

    qkv, out, up, down = sites(llm)
    x = norm(str(qkv.norm), hidden)
    scores = (linear(qkv.linears[0], x)[:, :1] + linear(qkv.linears[1], x)[:, :1].T).softmax(-1)
    mixed = scores @ linear(qkv.linears[2], x)
    if llm.num_key_value_heads < llm.num_attention_heads:
        groups = llm.num_attention_heads // llm.num_key_value_heads
        mixed = mixed.unflatten(-1, (-1, llm.head_size)).repeat_interleave(groups, dim=1).flatten(-2)
    hidden = hidden + linear(out.linears[0], mixed)
    x = norm(str(up.norm), hidden)
    if llm.mlp_type == "GatedMLP":
        x = torch.nn.functional.silu(linear(up.linears[0], x)) * linear(up.linears[1], x)
    else:
        x = torch.relu(linear(up.linears[0], x))
    return hidden + linear(down.linears[0], x)


@pytest.mark.parametrize(
    "llm", [LLAMA, OPT, replace(LLAMA, num_key_value_heads=2)], ids=["llama", "opt", "gqa"]
)
@pytest.mark.parametrize("algorithm", ["int4_awq", "smoothquant"])
def test_folded_scales_leave_the_layer_as_it_was(llm, algorithm):
    """With eight bits for AWQ too, rounding is small, and a scale in the wrong place is not."""
    form = replace(FORMS[algorithm], bits=8)
    how = How(form, None, torch.float32, llm)
    layer, hidden = layer_of(llm), torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(2))
    stored = dict(quantize_layer(layer, how, inputs_of(llm)))
    expected, got = forward(layer, llm, hidden), forward(widened(stored, llm, how), llm, hidden)
    assert float((got - expected).norm() / expected.norm()) < 0.05
    changed = [
        name for name, tensor in stored.items() if name in layer and not torch.equal(tensor, layer[name])
    ]
    assert [name for name in changed if "norm" in name and name.endswith("weight")] == [
        f"{site.norm}.weight" for site in sites(llm) if site.norm
    ]


def scaled_columns(llm: LlmFacts, linear: str, algorithm: str) -> bool:
    """Whether the inputs of a layer have scales: its rows are not those of rounding alone."""
    how = How(replace(FORMS[algorithm], bits=8), None, torch.float32, llm)
    layer = layer_of(llm)
    got = widened(dict(quantize_layer(layer, how, inputs_of(llm))), llm, how)[f"{linear}.weight"]
    return float((got - layer[f"{linear}.weight"]).norm() / layer[f"{linear}.weight"].norm()) > 0.02


@pytest.mark.parametrize(
    ("llm", "linear", "foldable"),
    [
        (LLAMA, "self_attn.o_proj", True),
        (replace(LLAMA, num_key_value_heads=2), "self_attn.o_proj", False),
        (LLAMA, "mlp.down_proj", True),
        (OPT, "fc2", True),
        (replace(OPT, hidden_act="gelu"), "fc2", False),
        (replace(OPT, layernorm_position="post_layernorm", hidden_act="gelu"), "fc1", False),
        (replace(OPT, layernorm_position="post_layernorm"), "self_attn.q_proj", False),
    ],
)
def test_a_layer_before_which_scales_cannot_be_folded_is_not_scaled(llm, linear, foldable):
    assert scaled_columns(llm, linear, "smoothquant") is foldable


@pytest.mark.parametrize("llm", [LLAMA, OPT], ids=["llama", "opt"])
def test_layers_that_servers_run_as_one_share_the_scales_of_float8(llm):
    how = How(FORMS["fp8"], None, torch.float32, llm)
    layer = layer_of(llm)
    stored = dict(quantize_layer(layer, how, inputs_of(llm)))
    for site in sites(llm):
        scales = {float(stored[f"{linear}.weight_scale"]) for linear in site.linears}
        largest = max(float(layer[f"{linear}.weight"].abs().max()) for linear in site.linears)
        assert list(scales) == [pytest.approx(largest / 448)]
        assert len({float(stored[f"{linear}.input_scale"]) for linear in site.linears}) == 1


def test_a_fitted_scale_is_no_worse_than_that_of_the_largest_weight():
    how = How(FORMS["int4"], None, torch.float32, LLAMA)
    layer, inputs = layer_of(LLAMA), inputs_of(LLAMA)
    errors = []
    for known in ({}, inputs):
        got = widened(dict(quantize_layer(layer, how, known)), LLAMA, how)
        rows = inputs["mlp.down_proj"].rows
        difference = got["mlp.down_proj.weight"] - layer["mlp.down_proj.weight"]
        errors.append(float((difference @ rows.T).square().sum()))
    assert errors[1] < errors[0]


def test_awq_is_better_than_rounding_to_nearest_where_some_inputs_are_large():
    form, inputs = FORMS["int4_awq"], inputs_of(LLAMA)["self_attn.q_proj"]
    weights = [layer_of(LLAMA)[f"self_attn.{name}_proj.weight"] for name in "qkv"]
    found = fit.awq(weights, inputs, form, 32, torch.float32)

    def error(scales: torch.Tensor) -> float:
        total = 0.0
        for weight in weights:
            own = arithmetic.weight_scales(weight * scales, form, 32, torch.float32)
            stored = arithmetic.widened(arithmetic.rounded(weight * scales, own, form), own) / scales
            total += float(((weight - stored) @ inputs.rows.T).square().sum())
        return total

    assert error(found) < 0.9 * error(torch.ones(WIDTH))


@pytest.mark.parametrize(
    ("algorithm", "group"),
    [
        (algorithm, group)
        for algorithm, form in FORMS.items()
        for group in (None, 32)
        if group is None or form.packed
    ],
)
def test_tensors_have_the_planned_names_types_and_shapes(algorithm, group):
    how = How(FORMS[algorithm], group, torch.bfloat16, LLAMA)
    layer = layer_of(LLAMA)
    stored = dict(quantize_layer(layer, how, inputs_of(LLAMA)))
    planned = {
        name: (f"torch.{dtype}", shape)
        for site in sites(LLAMA)
        for linear in site.linears
        for name, dtype, shape in stored_shapes(
            linear, tuple(layer[f"{linear}.weight"].shape), how, "bfloat16"
        )
    }
    found = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in stored.items()}
    norms = {f"{site.norm}.weight" for site in sites(LLAMA) if site.norm}
    assert {name: found[name] for name in found if name not in norms} == planned
