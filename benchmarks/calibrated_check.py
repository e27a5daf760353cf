"""Whether compiled layers and engines of calibrated checkpoints compute what their tensors stand for, on any device.

Sizes are and are not multiples of what cuBLAS wants (8 for int8, 16 for float8), tokens are one and many. Exact
results are worked out in float64 on the CPU from the stored tensors, nibble by nibble; an engine is held against
transformers' LLaMA in float32 with the weights that the tensors stand for and inputs rounded as the engine rounds
them. Errors are in units of the results' own root mean square: a wrong sum is about 1.
"""

from __future__ import annotations

import dataclasses
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calibrated_setting import VARIANTS, Setting, say

# (inputs, outputs); int4 needs an even number of outputs and whole groups.
SIZES = [(4096, 1024), (2048, 16), (96, 48), (136, 72), (132, 50), (130, 10)]
TOKENS = [1, 2, 7, 16, 17, 33]
LONGEST = 64
# Rounding of 16-bit weights, inputs and results. Measured errors are printed.
BOUND = 0.01
# The engine is float32, so that inputs are rounded to the same int8 and float8 as the reference's: with float16 a few
# fall on the other side of a half, on a CPU as well (0.05 to 0.11 of SmoothQuant's logits' spread).
ENGINE_BOUND, ENGINE_STEPS = 0.003, 6
_GROUPS = {130: 26, 132: 12, 136: 8}


class Layers(nn.Module):
    """All layers side by side, each on an input of its own."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """x [1, L, in] of each -> [1, L, out]."""
        return tuple(layer(x) for layer, x in zip(self.model, inputs, strict=True))


def layer_config(setting: Setting, variant: str, group: int | None) -> Any:
    """An engine config; only precision matters for a layer."""
    from mmbuild.backends.torch.config import from_json

    config = from_json(setting.engine_params(variant))
    return dataclasses.replace(config, group_size=group if variant == "int4_awq" else None)


def check_layers(setting: Setting, variant: str) -> None:
    """One row for each size: the largest error over both packages (one token; one to many)."""
    from mmbuild.backends.torch.calibrated_linear import linear_maker
    from mmbuild.backends.torch.linear import layout_of

    layers = []
    for number, (inputs, outputs) in enumerate(SIZES):
        config = layer_config(setting, variant, _GROUPS.get(inputs, 16))
        make = linear_maker(config, layout_of(setting.device))
        layers.append(make(inputs, outputs, reduce=number % 2 == 0))
    fill(layers)
    module = Layers(layers).to(setting.device)
    run = {count: _compiled(setting, module, variant, count) for count in (1, LONGEST)}
    random = torch.Generator().manual_seed(1)
    for number, (layer, (inputs, outputs)) in enumerate(zip(layers, SIZES, strict=True)):
        errors = {}
        for count in TOKENS:
            x = [torch.randn(1, count, size, generator=random) for size, _ in SIZES]
            given = [value.to(setting.device, getattr(torch, setting.dtype)) for value in x]
            # A package of many tokens is asked for one as well: prompts may be that short.
            for package in {1, LONGEST} if count == 1 else {LONGEST}:
                got = run[package](given)[number].double().cpu()
                wanted = exact(layer, given[number].double().cpu(), rounds_fp8=setting.device == "cuda")
                error = float((got - wanted).abs().max() / wanted.pow(2).mean().sqrt())
                errors[f"{count}{'' if package == 1 or count > 1 else ' in the package for many'}"] = error
        worst = max(errors.values())
        say(
            row="layer",
            ok=worst < BOUND,
            variant=variant,
            inputs=inputs,
            outputs=outputs,
            worst=worst,
            by_tokens={name: float(f"{error:.2g}") for name, error in errors.items()},
        )


def fill(layers: list[Any]) -> None:
    """Random stored weights, and scales such that results stay small."""
    random = torch.Generator().manual_seed(0)
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if parameter.dtype == torch.int8:
                parameter.data.random_(-128, 128, generator=random)
            elif parameter.dtype == torch.float8_e4m3fn:
                # Beyond 464 a float8 is NaN; a checkpoint's weights end at 448.
                values = torch.randn(parameter.shape, generator=random).mul(100).clamp(-448, 448)
                parameter.data = values.to(parameter.dtype)
            elif name in ("prequant_scaling_factor", "smoother"):
                parameter.data.uniform_(0.5, 2, generator=random)
            elif name == "activation_scaling_factor":
                # Three standard deviations are 448: a few inputs are clipped.
                parameter.data.fill_(3 / 448)
            elif name == "weights_scaling_factor" and parameter.dim() == 1:
                parameter.data.fill_(0.0003)
            else:
                parameter.data.uniform_(0.0005, 0.002, generator=random)


def _compiled(setting: Setting, module: Layers, variant: str, longest: int) -> Any:
    """The layers as a package, with their tensors bound to it."""
    from torch.export import Dim

    from mmbuild.backends.torch.aot_package import load_package
    from mmbuild.backends.torch.export import WithWeights, compile_package, export

    dtype, traced = getattr(torch, setting.dtype), min(5, longest)
    example = [torch.zeros(1, traced, size, device=setting.device, dtype=dtype) for size, _ in SIZES]
    length = Dim("length", min=1, max=longest) if longest > 1 else Dim.STATIC
    names, weights = zip(*((name, value.data) for name, value in module.named_parameters()), strict=True)
    dims = [*[{1: length}] * len(SIZES), *[None] * len(names)]
    program = export(WithWeights(module, "forward", names), [*example, *weights], dims, setting.device)
    path = setting.room / f"layers-{variant}-{longest}.pt2"
    compile_package(program, path, setting.target())
    package = load_package(path, setting.device)
    return lambda inputs: package([*inputs, *weights])


def exact(layer: Any, x: Tensor, *, rounds_fp8: bool) -> Tensor:
    """float64 x [..., in] times what a layer's tensors stand for."""
    own = {name: parameter.data.cpu() for name, parameter in layer.named_parameters()}
    if "prequant_scaling_factor" in own:
        packed = own["weight"].int()
        nibbles = torch.stack([packed & 15, (packed >> 4) & 15], dim=1).flatten(0, 1)
        values = torch.where(nibbles > 7, nibbles - 16, nibbles).double()
        scale = own["weights_scaling_factor"].double()
        wide = scale.repeat_interleave(values.shape[1] // scale.shape[1], dim=1)
        return (x * own["prequant_scaling_factor"].double()) @ (values * wide).t()
    if "per_channel_scale" in own:
        rounded = rounded_int8(x / own.get("smoother", torch.ones(1, x.shape[-1])).double()[0])
        return rounded @ (own["weight"].double() * own["per_channel_scale"].double().t()).t()
    if rounds_fp8:
        x = rounded_fp8(x, own["activation_scaling_factor"][0])
    return x @ own["weight"].double().t() * own["weights_scaling_factor"].double()[0]


def rounded_int8(x: Tensor) -> Tensor:
    """Each token to its own 255 values."""
    unit = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (x / unit).round() * unit


def rounded_fp8(x: Tensor, unit: Tensor) -> Tensor:
    """To float8_e4m3fn in multiples of ``unit``, clipped to its largest value."""
    return (x.float() / unit).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * unit.to(x.dtype)


def small_llm() -> Any:
    """A LLaMA that is no multiple of 16 in its MLP and of few tokens."""
    from mmbuild.models.families.facts import LlmFacts

    return LlmFacts(
        architecture="LlamaForCausalLM",
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_size=16,
        intermediate_size=132,
        hidden_act="silu",
        norm_epsilon=1e-5,
        max_position_embeddings=0,
        position_embedding_type="rope_gpt_neox",
        rotary_base=10000.0,
    )


def check_engine(setting: Setting, variant: str) -> None:
    """Logits of prompts (one token; many, with rows of the prompt table) and of the tokens after them."""
    from mmbuild.backends.torch.config import EngineConfig
    from mmbuild.backends.torch.session import Session

    group = 4 if variant == "int4_awq" else None
    config = EngineConfig(
        llm=small_llm(),
        encoder=None,
        dtype="float32",
        quant_algo=VARIANTS[variant],
        tensor_parallel=1,
        max_batch_size=2,
        max_beam_width=1,
        max_input_len=48,
        max_output_len=16,
        max_multimodal_len=8,
        group_size=group,
    )
    setting.step("build_llm", f"small-{variant}", config.to_json())
    tensors, model = small_checkpoint(setting, config)
    path = setting.room / f"small-{variant}" / "rank0.safetensors"
    _save(tensors, path)
    session = Session(config, path.parent, {"": path}, setting.target())
    table = torch.randn(8, 64, generator=torch.Generator().manual_seed(3)).to(session.empty_prompt_table())
    for prompt in ([17], [3, 17, 41, 130, 5, 60], [(7 * i) % 136 for i in range(40)]):
        error = _compare(session, model, prompt, table)
        say(row="engine check", ok=error < ENGINE_BOUND, variant=variant, tokens=len(prompt), worst=error)
    both = session.prefill([[17], [3, 17, 41]], table).float().cpu()
    alone = [session.prefill([prompt], table).float().cpu()[0] for prompt in ([17], [3, 17, 41])]
    error = float((both - torch.stack(alone)).abs().max() / both.std())
    say(row="engine check", ok=error < ENGINE_BOUND, variant=variant, tokens="a batch of two", worst=error)


def _save(tensors: dict[str, Tensor], path: Any) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)


@torch.no_grad()
def _compare(session: Any, model: Any, prompt: list[int], table: Tensor) -> float:
    """Largest difference of logits, by their spread, along the reference's own tokens."""
    words, vocab = model.get_input_embeddings().weight, session.config.vocab_size
    rows = table.float().cpu()
    embedded = torch.stack([rows[i - vocab] if i >= vocab else words[i] for i in prompt])[None]
    ours, worst = session.prefill([prompt], table), 0.0
    for _ in range(ENGINE_STEPS):
        wanted = model(inputs_embeds=embedded).logits[:, -1]
        worst = max(worst, float((ours.float().cpu() - wanted).abs().max() / wanted.std()))
        token = int(wanted.argmax())
        embedded = torch.cat([embedded, words[token][None, None]], dim=1)
        ours = session.decode(torch.tensor([token], device=session.device))
    return worst


def small_checkpoint(setting: Setting, config: Any) -> tuple[dict[str, Tensor], Any]:
    """Random tensors as a checkpoint stores them, and transformers' model of the weights that they stand for."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from mmbuild.backends.torch.build_module import weights_of
    from mmbuild.backends.torch.calibrated_linear import linear_maker
    from mmbuild.backends.torch.linear import layout_of

    llm = config.llm
    tensors = {
        name: _plain(name, value, number) for number, (name, value) in enumerate(weights_of(config).items())
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=llm.vocab_size,
            hidden_size=llm.hidden_size,
            intermediate_size=llm.intermediate_size,
            num_hidden_layers=llm.num_hidden_layers,
            num_attention_heads=llm.num_attention_heads,
            num_key_value_heads=llm.num_key_value_heads,
            head_dim=llm.head_size,
            rms_norm_eps=llm.norm_epsilon,
            max_position_embeddings=128,
            tie_word_embeddings=False,
        )
    ).eval()
    state = {
        "model.embed_tokens.weight": tensors["transformer.vocab_embedding.weight"],
        "model.norm.weight": tensors["transformer.ln_f.weight"],
        "lm_head.weight": tensors["lm_head.weight"],
    }
    make, heads = linear_maker(config, layout_of("cpu")), llm.num_attention_heads * llm.head_size
    kv, wide, hidden = llm.num_key_value_heads * llm.head_size, llm.intermediate_size, llm.hidden_size
    own: dict[str, dict[str, Any]] = {}
    for index in range(llm.num_hidden_layers):
        ours, theirs = f"transformer.layers.{index}", f"model.layers.{index}"
        state[f"{theirs}.input_layernorm.weight"] = tensors[f"{ours}.input_layernorm.weight"]
        state[f"{theirs}.post_attention_layernorm.weight"] = tensors[f"{ours}.post_layernorm.weight"]
        for name, inputs, outputs, parts in (
            ("attention.qkv", hidden, heads + 2 * kv, {"q": heads, "k": kv, "v": kv}),
            ("attention.dense", heads, hidden, {"o": hidden}),
            ("mlp.fc", hidden, wide, {"gate": wide}),
            ("mlp.gate", hidden, wide, {"up": wide}),
            ("mlp.proj", wide, hidden, {"down": hidden}),
        ):
            layer = make(inputs, outputs, reduce=name in ("attention.dense", "mlp.proj"))
            for key, parameter in layer.named_parameters():
                stored = tensors[f"{ours}.{name}.{key}"]
                parameter.data = stored.expand(parameter.shape) if stored.numel() == 1 else stored
            one_hot = torch.eye(inputs, dtype=torch.float64)
            matrix = _matrix(layer, one_hot)
            home = "self_attn" if name.startswith("attention") else "mlp"
            for part, rows in zip(parts, matrix.split(list(parts.values())), strict=True):
                state[f"{theirs}.{home}.{part}_proj.weight"] = rows.float()
                own[f"layers.{index}.{home}.{part}_proj"] = dict(layer.named_parameters())
    model.load_state_dict({name: value.float() for name, value in state.items()})
    _round_inputs(model, own, fp8=setting.device == "cuda")
    return {name: value.contiguous() for name, value in tensors.items()}, model


def _matrix(layer: Any, one_hot: Tensor) -> Tensor:
    """[out, in] that a layer multiplies by, without rounding its inputs."""
    own = {name: parameter.data for name, parameter in layer.named_parameters()}
    if "per_channel_scale" in own:
        smoother = own.get("smoother", torch.ones(1, len(one_hot))).double()
        return own["weight"].double() * own["per_channel_scale"].double().t() / smoother
    return exact(layer, one_hot, rounds_fp8=False).t()


def _round_inputs(model: Any, own: dict[str, dict[str, Any]], *, fp8: bool) -> None:
    """Round what enters each linear layer as its engine does."""
    for name, tensors in own.items():
        module = model.model.get_submodule(name)
        if "per_channel_scale" in tensors:
            smoother = tensors.get("smoother", torch.ones(1, module.in_features))[0]

            def forward(self: Any, x: Tensor, smoother: Tensor = smoother) -> Tensor:
                return nn.functional.linear(rounded_int8(x / smoother) * smoother, self.weight)

            module.forward = MethodType(forward, module)
        elif "activation_scaling_factor" in tensors and fp8:
            unit = tensors["activation_scaling_factor"][0]

            def narrow(self: Any, x: Tensor, unit: Tensor = unit) -> Tensor:
                return nn.functional.linear(rounded_fp8(x, unit), self.weight)

            module.forward = MethodType(narrow, module)


def _plain(name: str, value: Tensor, seed: int) -> Tensor:
    """A random tensor of the kind that the checkpoint has under this name; FP8's scalars as one number."""
    random = torch.Generator().manual_seed(seed)
    kind, shape = name.rpartition(".")[2], tuple(value.shape)
    if value.dtype == torch.int8:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
    if value.dtype == torch.float8_e4m3fn:
        return torch.randn(shape, generator=random).mul(100).to(value.dtype)
    if kind == "activation_scaling_factor":
        return torch.full((1,), 0.02)
    if kind == "weights_scaling_factor" and value.dim() == 1:
        return torch.full((1,), 0.0012)
    if kind in ("prequant_scaling_factor", "smoother") or "norm" in name or "ln_f" in name:
        return (torch.rand(shape, generator=random) + 0.5).to(value.dtype)
    if kind in ("weights_scaling_factor", "per_channel_scale"):
        spread = 0.03 if kind == "weights_scaling_factor" else 0.0015
        return ((torch.rand(shape, generator=random) + 0.5) * spread).to(value.dtype)
    return (torch.randn(shape, generator=random) * 0.3).to(value.dtype)
