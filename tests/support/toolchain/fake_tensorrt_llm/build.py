"""trtllm-build and examples/enc_dec/build.py: engines that are a few bytes, and their config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.toolchain.fake_tensorrt_llm.models import Stack, decoder, encoder

ENGINE = b"stand-in engine\n"
DUMMY = ("0.9.0.dev2024040900", "0.9.0", "0.10.0")  # where a missing rank gets dummy weights
BY_OUTPUT = DUMMY  # lengths passed as input and output, later as input and sequence


def trtllm_build(version: str, flags: dict[str, Any], cwd: Path, faults: frozenset[str]) -> None:
    source, out = cwd / flags["--checkpoint_dir"], cwd / flags["--output_dir"]
    pretrained = json.loads((source / "config.json").read_text("utf-8"))
    ranks = pretrained["mapping"]["world_size"]
    for rank in range(ranks):
        weights = source / f"rank{rank}.safetensors"
        if not weights.is_file():
            if version not in DUMMY:
                raise AssertionError(f"Weights for rank {rank} do not exist.")
            print(f"[TRT-LLM] [W] Cannot find {weights}. Use dummy model weights.")
    if "dtype" in faults:
        pretrained["dtype"] = "float64"
    if "model" in faults:
        pretrained["hidden_size"] += 1
    if "ranks" in faults:
        pretrained["mapping"]["tp_size"] += 1
    built = {
        "max_batch_size": flags.get("--max_batch_size", 1) + ("batch" in faults),
        "max_input_len": flags.get("--max_input_len", 256) + ("length" in faults),
        "max_beam_width": flags.get("--max_beam_width", 1),
        "max_prompt_embedding_table_size": flags.get("--max_prompt_embedding_table_size", 0)
        + ("table" in faults),
        "max_encoder_input_len": flags.get("--max_encoder_input_len", 1),
    }
    if version in BY_OUTPUT:
        built["max_output_len"] = flags.get("--max_output_len", 1024)
    else:
        built["max_seq_len"] = flags.get("--max_seq_len", 512)
    own = {"1.2": "1.2.1"}.get(version, version)
    _write_config(
        out,
        {
            "version": "0.5.0" if "version" in faults else own,
            "pretrained_config": pretrained,
            "build_config": built,
        },
        faults,
    )
    _write_engines([out / f"rank{rank}.engine" for rank in range(ranks + 1)], ranks, faults)
    (cwd / "model.cache").write_bytes(ENGINE)


def encoder_decoder(flags: dict[str, Any], cwd: Path, faults: frozenset[str]) -> None:
    """Up to 0.9: encoder and decoder by one command, of raw tensors."""
    ranks = flags.get("--tp_size", 1)
    if flags.get("--world_size", 1) != ranks:
        raise AssertionError("world_size must equal tp_size * pp_size")
    weights = cwd / flags["--weight_dir"]
    model = weights / "standin"
    place = cwd / flags["--output_dir"] / flags["--dtype"] / f"tp{ranks}"
    table, source = flags["--max_prompt_embedding_table_size"], flags.get("--max_encoder_input_len", 1024)
    if flags.get("--skip_encoder"):
        source = table  # for Nougat the number becomes the length of the cross-attention
    else:
        _part(place / "encoder", encoder(model), False, table, source, flags, faults)
    if not (weights / "config.ini").is_file():
        raise FileNotFoundError(weights / "config.ini")
    _part(place / "decoder", decoder(model), True, 0, source, flags, faults)


def _part(
    out: Path,
    stack: Stack,
    cross: bool,
    table: int,
    source: int,
    flags: dict[str, Any],
    faults: frozenset[str],
) -> None:
    ranks = flags.get("--tp_size", 1)
    config = {
        "precision": "float64" if "dtype" in faults else flags["--dtype"],
        "tensor_parallel": ranks + ("ranks" in faults),
        "pipeline_parallel": 1,
        "num_layers": stack.layers,
        "hidden_size": stack.width + ("model" in faults),
        "max_batch_size": flags["--max_batch_size"] + ("batch" in faults),
        "max_beam_width": flags["--max_beam_width"],
        "max_output_len": flags["--max_output_len"] + ("length" in faults),
        "max_encoder_input_len": source,
        "cross_attention": cross,
        "max_prompt_embedding_table_size": table + ("table" in faults),
    }
    _write_config(out, {"builder_config": config, "plugin_config": {}}, faults)
    stem = f"{flags['--engine_name']}_{flags['--dtype']}_tp{ranks}"
    _write_engines([out / f"{stem}_rank{rank}.engine" for rank in range(ranks + 1)], ranks, faults)
    (out / "model.cache").write_bytes(ENGINE)


def _write_config(out: Path, content: dict[str, Any], faults: frozenset[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content)
    (out / "config.json").write_text(text[: len(text) // 2] if "broken_config" in faults else text, "utf-8")


def _write_engines(paths: list[Path], ranks: int, faults: frozenset[str]) -> None:
    """``paths`` has one more than there are ranks: that of an earlier build."""
    count = ranks + 1 if "stale_rank" in faults else ranks - 1 if "missing_rank" in faults else ranks
    for path in paths[:count]:
        path.write_bytes(ENGINE)
