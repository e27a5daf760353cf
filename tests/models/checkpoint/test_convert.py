import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2ForConditionalGeneration, T5ForConditionalGeneration

from mmbuild.models.checkpoint.config import CheckpointConfig, components
from mmbuild.models.checkpoint.convert import convert
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families import family
from mmbuild.models.families.facts import LlmFacts
from support.errors import refused
from support.models import tiny_families
from support.models import weights_on_disk as disk


def run(model: Path, out: Path, ways: int = 1, dtype: str = "float32") -> list[dict[str, np.ndarray]]:
    """Convert; the tensors of each rank."""
    content = json.loads((model / "config.json").read_text())
    out.mkdir()
    config = CheckpointConfig(family("llava").facts(content).llm, dtype, ways)
    convert(model, out, "llava", {".": config})
    files = sorted(out.glob("*.safetensors"))
    assert [file.name for file in files] == [f"rank{r}.safetensors" for r in range(ways)]
    return [{name: tensor.float().numpy() for name, tensor in load_file(file).items()} for file in files]


def expected(hf: dict[str, np.ndarray], text: dict[str, int], rank: int, ways: int) -> dict[str, np.ndarray]:
    """The rank's tensors by plain numpy: heads as an axis, key/value heads by which query head uses them."""
    heads, shared, size = text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    own = [h for h in range(heads) if h * ways // heads == rank]
    used = sorted({h * shared // heads for h in own})
    p = "language_model.model."
    vocabulary = -(-text["vocab_size"] // ways) * ways
    head = np.zeros((vocabulary, hidden), np.float32)
    head[: text["vocab_size"]] = hf["language_model.lm_head.weight"]
    made = {
        "transformer.vocab_embedding.weight": hf[p + "embed_tokens.weight"],
        "transformer.ln_f.weight": hf[p + "norm.weight"],
        "lm_head.weight": np.split(head, ways)[rank],
    }
    for i in range(text["num_hidden_layers"]):
        layer, name = f"{p}layers.{i}.", f"transformer.layers.{i}."
        q = hf[layer + "self_attn.q_proj.weight"].reshape(heads, size, hidden)[own]
        k = hf[layer + "self_attn.k_proj.weight"].reshape(shared, size, hidden)[used]
        v = hf[layer + "self_attn.v_proj.weight"].reshape(shared, size, hidden)[used]
        o = hf[layer + "self_attn.o_proj.weight"].reshape(hidden, heads, size)[:, own]
        made |= {
            name + "attention.qkv.weight": np.concatenate([part.reshape(-1, hidden) for part in (q, k, v)]),
            name + "attention.dense.weight": o.reshape(hidden, -1),
            name + "mlp.fc.weight": np.split(hf[layer + "mlp.gate_proj.weight"], ways)[rank],
            name + "mlp.gate.weight": np.split(hf[layer + "mlp.up_proj.weight"], ways)[rank],
            name + "mlp.proj.weight": np.split(hf[layer + "mlp.down_proj.weight"], ways, axis=1)[rank],
            name + "input_layernorm.weight": hf[layer + "input_layernorm.weight"],
            name + "post_layernorm.weight": hf[layer + "post_attention_layernorm.weight"],
        }
        assert made[name + "mlp.proj.weight"].shape == (hidden, inner // ways)
    return made


def check(found: dict[str, np.ndarray], required: dict[str, np.ndarray]) -> None:
    assert set(found) == set(required)
    for name, tensor in required.items():
        assert np.array_equal(found[name], tensor), name


@pytest.mark.parametrize("ways", [1, 2, 4, 8])
@pytest.mark.parametrize(("heads", "shared"), [(8, 8), (8, 4), (8, 2), (16, 1)])
def test_each_rank_holds_its_slices(tmp_path: Path, ways: int, heads: int, shared: int) -> None:
    rng = np.random.default_rng(ways * 100 + heads + shared)
    content = disk.config(
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_dim=2 * int(rng.integers(1, 4)),
        hidden_size=heads * int(rng.integers(1, 6)),
        intermediate_size=8 * int(rng.integers(1, 9)),
        vocab_size=int(rng.integers(20, 90)),
    )
    tensors = disk.decoder(content, rng)
    model = disk.write_model(tmp_path / "model", content, tensors)
    for rank, found in enumerate(run(model, tmp_path / "out", ways)):
        check(found, expected(tensors, content["text_config"], rank, ways))


def test_both_namings_and_sharded_weights_give_the_same_files(tmp_path: Path) -> None:
    content = disk.config()
    old = disk.decoder(content, np.random.default_rng(3), disk.OLD)
    new = disk.decoder(content, np.random.default_rng(3), disk.NEW)
    run(disk.write_model(tmp_path / "old", content, old), tmp_path / "a")
    run(disk.write_model(tmp_path / "new", content, new, shards=3), tmp_path / "b")
    assert (tmp_path / "a" / "rank0.safetensors").read_bytes() == (
        tmp_path / "b" / "rank0.safetensors"
    ).read_bytes()


def test_older_pickled_weights_give_the_same_files(tmp_path: Path) -> None:
    content = disk.config()
    tensors = disk.decoder(content, np.random.default_rng(4))
    run(disk.write_model(tmp_path / "st", content, tensors), tmp_path / "a", 2)
    model = disk.write_model(tmp_path / "bin", content, tensors)
    (model / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(t) for name, t in tensors.items()}, model / "pytorch_model.bin")
    run(model, tmp_path / "b", 2)
    for rank in range(2):
        name = f"rank{rank}.safetensors"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_tied_head_is_the_embedding_table(tmp_path: Path) -> None:
    content = disk.config() | {"tie_word_embeddings": True}
    tensors = disk.decoder(content, np.random.default_rng(5))
    assert "language_model.lm_head.weight" not in tensors
    ranks = run(disk.write_model(tmp_path / "m", content, tensors), tmp_path / "out", 2)
    table = tensors["language_model.model.embed_tokens.weight"]
    assert np.array_equal(np.concatenate([rank["lm_head.weight"] for rank in ranks]), table)


def test_a_head_that_is_stored_is_taken_though_the_config_ties_it(tmp_path: Path) -> None:
    content = disk.config() | {"tie_word_embeddings": True}
    tensors = disk.decoder(content, np.random.default_rng(5))
    table = tensors["language_model.model.embed_tokens.weight"]
    tensors["language_model.lm_head.weight"] = table[::-1].copy()
    (rank,) = run(disk.write_model(tmp_path / "m", content, tensors), tmp_path / "out")
    assert np.array_equal(rank["lm_head.weight"], tensors["language_model.lm_head.weight"])


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "text"])
@pytest.mark.parametrize("differs", [None, "encoder", "decoder"])
@pytest.mark.parametrize("copies", [("encoder", "decoder"), ("decoder",), ("encoder",), ()])
def test_each_t5_stack_has_the_embeddings_that_transformers_gives_it(
    tmp_path: Path, copies: tuple[str, ...], differs: str | None, whole: bool
) -> None:
    model = tmp_path / "m"
    if whole:
        tiny_families.save_model("blip2-t5", 1, model)
    else:
        model = tiny_families.save_in_two("blip2-t5", 1, tmp_path)["model"]
    prefix = "language_model." if whole else ""
    stored = load_file(model / "model.safetensors")
    table = stored[f"{prefix}shared.weight"]
    copied = {
        f"{prefix}{name}.embed_tokens.weight": table.flip(0).contiguous()
        if name == differs
        else table.clone()
        for name in copies
    }
    save_file(stored | copied, model / "model.safetensors", {"format": "pt"})
    kind = Blip2ForConditionalGeneration if whole else T5ForConditionalGeneration
    loaded = kind.from_pretrained(model)
    t5 = loaded.language_model if whole else loaded
    facts = t5_facts(json.loads((model / "config.json").read_text()), whole, tmp_path)
    stacks = {name: CheckpointConfig(llm, "float32", 1) for name, llm in facts.items()}
    (tmp_path / "out").mkdir()
    convert(model, tmp_path / "out", "blip2-t5", stacks)
    # Features and words are put together by the table that both stacks share.
    required = {"encoder": t5.shared.weight, "decoder": t5.decoder.embed_tokens.weight}
    for name, weight in required.items():
        found = load_file(tmp_path / "out" / name / "rank0.safetensors")
        assert torch.equal(found["embedding.vocab_embedding.weight"], weight), name
    head = load_file(tmp_path / "out" / "decoder" / "rank0.safetensors")["lm_head.weight"]
    assert torch.equal(head, t5.lm_head.weight)


def t5_facts(config: dict[str, Any], whole: bool, root: Path) -> Mapping[str, LlmFacts]:
    """The stacks of a T5, whose tower a text model has from the second source."""
    vision = None if whole else json.loads((root / "vision" / "config.json").read_text())
    facts = family("blip2-t5").facts(config, vision)
    return components(facts.llm, facts.encoder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_converted_to_the_engine_s_dtype(tmp_path: Path, dtype: str) -> None:
    content = disk.config()
    tensors = disk.decoder(content, np.random.default_rng(6))
    (found,) = run(disk.write_model(tmp_path / "m", content, tensors), tmp_path / "out", 1, dtype)
    required = torch.from_numpy(tensors["language_model.lm_head.weight"]).to(getattr(torch, dtype)).float()
    assert np.array_equal(found["lm_head.weight"], required.numpy())


def test_config_json_is_what_tensorrt_llm_reads_and_marked_as_ours(tmp_path: Path) -> None:
    content = disk.config()
    model = disk.write_model(tmp_path / "m", content, disk.decoder(content, np.random.default_rng(7)))
    run(model, tmp_path / "out", 2, "float16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    text = content["text_config"]
    assert written["architecture"] == "LlamaForCausalLM"
    assert written["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    assert {name: written[name] for name in ("vocab_size", "hidden_size", "num_key_value_heads")} == {
        name: text[name] for name in ("vocab_size", "hidden_size", "num_key_value_heads")
    }
    assert written["quantization"]["quant_algo"] is None
    assert (written["dtype"], written["producer"], written["layout"]) == ("float16", "mmbuild", "plain")


Q = "language_model.model.layers.1.self_attn.q_proj.weight"


def broken(tmp_path: Path, change: str) -> Path:
    content = disk.config()
    tensors = disk.decoder(content, np.random.default_rng(8))
    if change == "missing":
        del tensors[Q]
    elif change == "shape":
        tensors[Q] = tensors[Q][:-1].copy()
    elif change == "nan":
        tensors[Q][3, 4] = np.nan
    elif change == "overflow":
        tensors[Q][3, 4] = 1e6
    elif change == "bias":
        tensors[Q.replace("weight", "bias")] = tensors[Q][:, 0].copy()
    elif change == "naming":
        tensors = {f"foreign.{name}": tensor for name, tensor in tensors.items()}
    return disk.write_model(tmp_path / "m", content, tensors, shards=2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("missing", "MM430"),
        ("shape", "MM431"),
        ("nan", "MM432"),
        ("overflow", "MM432"),
        ("bias", "MM434"),
        ("naming", "MM430"),
    ],
)
def test_wrong_weights_are_refused_by_name(tmp_path: Path, change: str, code: str) -> None:
    model = broken(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        run(model, tmp_path / "out", 1, "float16")
    assert caught.value.code == code
    assert caught.value.hint
    if change != "naming":
        assert Q.rsplit(".", 1)[0] in caught.value.message
        assert ".safetensors" in caught.value.message
    assert not (tmp_path / "out" / "config.json").exists()
    assert not list((tmp_path / "out").glob("*"))


def test_progress_ends_at_one_and_never_goes_back(tmp_path: Path) -> None:
    content = disk.config()
    model = disk.write_model(tmp_path / "m", content, disk.decoder(content, np.random.default_rng(9)))
    (tmp_path / "out").mkdir()
    seen: list[float] = []
    config = CheckpointConfig(family("llava").facts(content).llm, "float16", 2)
    convert(model, tmp_path / "out", "llava", {".": config}, lambda _, amount: seen.append(amount.fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("other", ["layers.1.mlp.up_proj.weight", "embed_tokens.weight", "lm_head.weight"])
def test_a_tensor_under_the_names_of_two_releases_is_refused(tmp_path: Path, other: str, tied: bool) -> None:
    content = disk.config() | {"tie_word_embeddings": tied}
    tensors = disk.decoder(content, np.random.default_rng(9))
    # transformers takes the last of the two, whichever that is.
    head = other == "lm_head.weight"
    newer = other if head else f"model.language_model.{other}"
    older = "language_model.lm_head.weight" if head else f"language_model.model.{other}"
    shown = "language_model.model.embed_tokens.weight" if head and tied else older
    tensors[newer] = tensors[shown] + 1
    model = disk.write_model(tmp_path / "m", content, tensors)
    error = refused(CheckpointError, "MM434", run, model, tmp_path / "out")
    assert f"`{newer}` and as `{shown}`" in error.message
