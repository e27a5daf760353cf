"""Converters and the quantizer: checkpoints with tensors of one number each."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.toolchain.fake_tensorrt_llm.models import Stack, decoder, encoder

ALGORITHMS = {
    "int8": "W8A16",
    "int4": "W4A16",
    "int4_awq": "W4A16_AWQ",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "fp8": "FP8",
}
NUMBER_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I8": 1}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n"


def decoder_only(architecture: str, flags: dict[str, Any], cwd: Path, faults: frozenset[str]) -> None:
    """examples/{llama,opt}/convert_checkpoint.py and quantization/quantize.py."""
    required = flags.get("--qformat")
    if flags.get("--use_weight_only"):
        required = flags.get("--weight_only_precision", "int8")
    algorithm = ALGORITHMS[required] if required and "unquantized" not in faults else None
    stack = decoder(cwd / flags["--model_dir"])
    names = list(_llama(stack) if architecture == "LlamaForCausalLM" else _opt(stack))
    _checkpoint(cwd / flags["--output_dir"], architecture, stack, names, algorithm, flags, faults)


def two_parts(flags: dict[str, Any], cwd: Path, faults: frozenset[str]) -> None:
    """examples/enc_dec/convert_checkpoint.py from 0.10 on."""
    model, out = cwd / flags["--model_dir"], cwd / flags["--output_dir"]
    if "--weight_data_type" in flags:  # 0.10 alone has this flag, and these directories
        out = out / f"tp{flags['--tp_size']}" / f"pp{flags['--pp_size']}"
    if flags.get("--nougat"):
        (out / "encoder").mkdir(parents=True, exist_ok=True)
    else:
        stack = encoder(model)
        names = _part("encoder", stack, ("attention",))
        _checkpoint(out / "encoder", "EncoderModel", stack, list(names), None, flags, faults)
    stack = decoder(model)
    names = _part("decoder", stack, ("self_attention", "cross_attention"))
    _checkpoint(out / "decoder", "DecoderModel", stack, [*names, "lm_head.weight"], None, flags, faults)


def raw(kind: str, flags: dict[str, Any], cwd: Path, faults: frozenset[str]) -> None:
    """examples/enc_dec/{t5,bart}/convert.py up to 0.9."""
    model, ranks = cwd / flags["--input_dir"], flags["--inference_tensor_para_size"]
    out = cwd / flags["--output_dir"] / f"tp{ranks}"
    out.mkdir(parents=True, exist_ok=True)
    stack = decoder(model)
    names = list(_raw_bart(stack) if kind == "bart" else _raw_t5(encoder(model), stack))
    if "tensors" in faults:
        names = [name for name in names if f".{stack.layers - 1}." not in name]
    for name in names:
        files = [f"{name[:-1]}.{rank}" for rank in range(ranks)] if name.endswith("*") else [name]
        for file in files:
            (out / f"{file}.bin").write_bytes(bytes(4))
    sides = "" if kind == "bart" else f"[encoder]\nd_model = {encoder(model).width}\n"
    # The model's values in the real config.ini, for the fake builder.
    (out / "standin").mkdir(exist_ok=True)
    (out / "standin/config.json").write_bytes((model / "config.json").read_bytes())
    (out / "config.ini").write_text(f"{sides}[decoder]\nd_model = {stack.width}\n[structure]\n", "utf-8")


def _checkpoint(
    out: Path,
    architecture: str,
    stack: Stack,
    names: list[str],
    algorithm: str | None,
    flags: dict[str, Any],
    faults: frozenset[str],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    ranks = flags.get("--tp_size", 1)
    reported = ranks + 1 if "ranks" in faults else ranks
    config = {
        "architecture": architecture,
        "dtype": "float64" if "dtype" in faults else flags["--dtype"],
        "num_hidden_layers": stack.layers,
        "hidden_size": stack.width + 1 if "model" in faults else stack.width,
        "mapping": {"world_size": reported, "tp_size": reported, "pp_size": 1},
        "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": None},
    }
    text = json.dumps(config)
    (out / "config.json").write_text(text[: len(text) // 2] if "broken_config" in faults else text, "utf-8")
    if "tensors" in faults:
        names = [name for name in names if f".{stack.layers - 1}." not in name]
    plain = NUMBER_TYPES[flags["--dtype"]]
    content = _safetensors(_entries(names, plain, None if "unpacked" in faults else algorithm))
    content = content[:-1] if "truncated" in faults else content
    content = LFS_POINTER if "pointer" in faults else content
    written = 0 if "config_only" in faults else ranks - 1 if "missing_rank" in faults else ranks
    for rank in range(ranks + 1 if "stale_rank" in faults else written):
        (out / f"rank{rank}.safetensors").write_bytes(content)


def _entries(names: Iterable[str], plain: str, algorithm: str | None) -> dict[str, str]:
    scale = {
        "W8A16": "per_channel_scale",
        "W4A16": "per_channel_scale",
        "W4A16_AWQ": "weights_scaling_factor",
    }
    found = {}
    for name in names:
        linear = name.endswith((".qkv.weight", ".dense.weight", ".fc.weight", ".proj.weight", ".gate.weight"))
        found[name] = "I8" if linear and algorithm in scale else plain
        if linear and algorithm in scale:
            found[name.removesuffix("weight") + scale[algorithm]] = plain
    return found


def _safetensors(entries: dict[str, str]) -> bytes:
    header, end = {}, 0
    for name, kind in entries.items():
        header[name] = {"dtype": kind, "shape": [1], "data_offsets": [end, end + BYTES[kind]]}
        end += BYTES[kind]
    reported = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(reported)) + reported + bytes(end)


def _llama(stack: Stack) -> Iterable[str]:
    yield from ("transformer.vocab_embedding.weight", "transformer.ln_f.weight", "lm_head.weight")
    for layer in range(stack.layers):
        for name in ("input_layernorm", "post_layernorm", "attention.qkv", "attention.dense"):
            yield f"transformer.layers.{layer}.{name}.weight"
        for name in ("fc", "gate", "proj"):
            yield f"transformer.layers.{layer}.mlp.{name}.weight"


def _opt(stack: Stack) -> Iterable[str]:
    yield from ("transformer.vocab_embedding.weight", "transformer.position_embedding.weight")
    for layer in range(stack.layers):
        for name in (
            "input_layernorm",
            "post_layernorm",
            "attention.qkv",
            "attention.dense",
            "mlp.fc",
            "mlp.proj",
        ):
            yield f"transformer.layers.{layer}.{name}.weight"
            yield f"transformer.layers.{layer}.{name}.bias"


def _part(part: str, stack: Stack, attentions: tuple[str, ...]) -> Iterable[str]:
    yield "embedding.vocab_embedding.weight"
    for layer in range(stack.layers):
        prefix = f"{part}_layers.{layer}"
        for name in attentions:
            yield from (f"{prefix}.{name}.qkv.weight", f"{prefix}.{name}.dense.weight")
            yield f"{prefix}.{name}_layernorm.weight"
        yield from (f"{prefix}.mlp.fc.weight", f"{prefix}.mlp.proj.weight", f"{prefix}.mlp_layernorm.weight")
        if stack.gated:
            yield f"{prefix}.mlp.gate.weight"


# Names that end in * are split: one file for each rank.
def _raw_t5(sender: Stack, receiver: Stack) -> Iterable[str]:
    yield from ("shared.weight", "lm_head.weight*")
    for part, stack, attentions in (
        ("encoder", sender, ("SelfAttention",)),
        ("decoder", receiver, ("SelfAttention", "EncDecAttention")),
    ):
        yield f"{part}.final_layer_norm.weight"
        yield f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight*"
        for layer in range(stack.layers):
            prefix = f"{part}.block.{layer}.layer"
            for place, name in enumerate(attentions):
                yield from (f"{prefix}.{place}.{name}.qkv.weight*", f"{prefix}.{place}.{name}.o.weight*")
                yield f"{prefix}.{place}.layer_norm.weight"
            last = len(attentions)
            for name in ("wi", "wi2", "wo") if stack.gated else ("wi", "wo"):
                yield f"{prefix}.{last}.DenseReluDense.{name}.weight*"
            yield f"{prefix}.{last}.layer_norm.weight"


def _raw_bart(stack: Stack) -> Iterable[str]:
    yield "lm_head.weight*"
    for name in ("embed_tokens", "embed_positions", "layernorm_embedding", "layer_norm"):
        yield f"model.decoder.{name}.weight"
    yield from ("model.decoder.layernorm_embedding.bias", "model.decoder.layer_norm.bias")
    for layer in range(stack.layers):
        prefix = f"model.decoder.layers.{layer}"
        for name in ("self_attn", "encoder_attn"):
            yield from (f"{prefix}.{name}.qkv_proj.weight*", f"{prefix}.{name}.qkv_proj.bias*")
            yield from (f"{prefix}.{name}.out_proj.weight*", f"{prefix}.{name}.out_proj.bias")
        for name in ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"):
            yield from (f"{prefix}.{name}.weight", f"{prefix}.{name}.bias")
        yield from (
            f"{prefix}.fc1.weight*",
            f"{prefix}.fc1.bias*",
            f"{prefix}.fc2.weight*",
            f"{prefix}.fc2.bias",
        )
