"""Small models of every family, random shapes and weights, as files: weights, config, tokenizer, processor.

What transformers has a class for is saved by it. VILA is written in both of its layouts, by hand.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPVisionConfig,
    CLIPVisionModel,
    DonutSwinConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    OPTConfig,
    OPTForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5ForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from mmbuild.backends.lowering import step_params
from mmbuild.models.families import ModelFacts, family, part

VOCABULARY = 300
TEXT = {"blip2-opt": OPTForCausalLM, "blip2-t5": T5ForConditionalGeneration}


def opt_config(seed: int, **changes: Any) -> OPTConfig:
    """An OPT of random small shapes."""
    rng = random.Random(seed)
    heads = rng.choice([2, 3, 4])
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": heads * rng.choice([8, 12]),
        "num_attention_heads": heads,
        "num_hidden_layers": rng.choice([2, 3]),
        "ffn_dim": rng.choice([40, 64]),
        "max_position_embeddings": 96,
        "do_layer_norm_before": rng.choice([True, True, False]),
        "activation_function": rng.choice(["relu", "gelu"]),
        "tie_word_embeddings": rng.choice([True, False]),
    }
    return OPTConfig(**{**sizes, **changes})


def t5_config(seed: int, **changes: Any) -> T5Config:
    """A T5 of random small shapes: heads wider or narrower than the model, gated or plain MLP, scaled or not."""
    rng = random.Random(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": rng.choice([24, 32]),
        "d_kv": rng.choice([5, 8, 16]),
        "num_heads": rng.choice([2, 4]),
        "d_ff": rng.choice([40, 64]),
        "num_layers": rng.choice([2, 3]),
        "num_decoder_layers": rng.choice([1, 2]),  # more than num_layers: transformers' cache fails
        "feed_forward_proj": rng.choice(["relu", "gated-gelu", "gated-silu"]),
        "tie_word_embeddings": rng.choice([True, False]),
        "relative_attention_num_buckets": rng.choice([8, 16]),
        "relative_attention_max_distance": rng.choice([20, 40]),
        "decoder_start_token_id": 0,
    }
    return T5Config(**{**sizes, **changes})


def blip2_config(seed: int, text: OPTConfig | T5Config) -> Blip2Config:
    """A BLIP-2 of random small shapes around a language model."""
    rng = random.Random(seed)
    patch = rng.choice([4, 7])
    vision = {
        "hidden_size": rng.choice([24, 32]),
        "intermediate_size": 40,
        "num_hidden_layers": rng.choice([1, 2]),
        "num_attention_heads": 4,
        "patch_size": patch,
        "image_size": patch * rng.choice([2, 3]),
    }
    qformer = {
        "vocab_size": 30,
        "hidden_size": rng.choice([16, 24]),
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "cross_attention_frequency": rng.choice([1, 2]),
    }
    return Blip2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        qformer_config=qformer,
        num_query_tokens=rng.choice([3, 5, 8]),
        image_token_index=VOCABULARY - 1,
    )


def nougat_config(seed: int, **decoder: Any) -> VisionEncoderDecoderConfig:
    """A Nougat of random small shapes: pages that fill no whole patches or windows, a projection or none."""
    rng = random.Random(seed)
    depths = rng.choice([[1, 2], [2, 1, 1]])
    stages = len(depths)
    width = 8 * 2 ** (stages - 1)
    encoder = DonutSwinConfig(
        image_size=[rng.randint(48, 70), rng.randint(48, 70)],
        patch_size=4,
        embed_dim=8,
        depths=depths,
        num_heads=[2] * stages,
        window_size=3,
    )
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": rng.choice([width, 24]),
        "decoder_layers": rng.choice([1, 2]),
        "decoder_ffn_dim": 40,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 48,
        "scale_embedding": rng.choice([True, False]),
        "tie_word_embeddings": rng.choice([True, False]),
        "is_encoder_decoder": False,
    }
    return VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, MBartConfig(**{**sizes, **decoder})
    )


def facts(name: str, sources: Mapping[str, Path]) -> ModelFacts:
    """What the family called ``name`` reads in the sources' configs."""
    configs = {source: json.loads((path / "config.json").read_text()) for source, path in sources.items()}
    return family(name).facts(configs["model"], configs.get("vision"))


def randomize(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter is random, norms and biases too, so that a missing one is noticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(
                1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2, generator=generator
            )
    return model.float().eval()


def save_model(name: str, seed: int, out: Path) -> torch.nn.Module:
    """A whole random model of the family called ``name`` (not vila), with stand-ins for tokenizer and processor."""
    model: torch.nn.Module
    if name == "nougat":
        model = VisionEncoderDecoderModel(nougat_config(seed))
    else:
        text = opt_config(seed) if name == "blip2-opt" else t5_config(seed)
        model = Blip2ForConditionalGeneration(blip2_config(seed, text))
    randomize(model, seed).save_pretrained(out)
    part(name, "processor").write_stand_in(json.loads((out / "config.json").read_text()), out)
    return model


def save_in_two(name: str, seed: int, root: Path) -> dict[str, Path]:
    """A BLIP-2 model as text model and second source; the second source has another language model inside."""
    sources = {"model": root / "model", "vision": root / "vision"}
    text = opt_config(seed) if name == "blip2-opt" else t5_config(seed)
    randomize(TEXT[name](text), seed).save_pretrained(sources["model"])
    randomize(Blip2ForConditionalGeneration(blip2_config(seed, text)), seed + 1).save_pretrained(
        sources["vision"]
    )
    for directory in sources.values():
        config = json.loads((directory / "config.json").read_text())
        part(name, "processor").write_stand_in(config, directory)
    return sources


def llama_config(seed: int) -> LlamaConfig:
    """A LLaMA of random small shapes: heads wider than the model, or as wide."""
    rng = random.Random(seed)
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4 * rng.choice([6, 8]),
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=rng.choice([2, 4]),
        head_dim=8,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
    )


def tower(seed: int, kind: str) -> torch.nn.Module:
    """A SigLIP or CLIP tower of random small shapes; its grid has an odd side."""
    rng = random.Random(seed)
    patch = rng.choice([4, 6])
    sizes: dict[str, Any] = {
        "hidden_size": rng.choice([16, 24]),
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": patch,
        "image_size": patch * rng.choice([3, 5]) + 1,
    }
    if kind == "clip":
        return randomize(CLIPVisionModel(CLIPVisionConfig(**sizes)), seed)
    return randomize(SiglipVisionModel(SiglipVisionConfig(**sizes)), seed)


def save_vila(seed: int, out: Path, projector: str = "mlp_downsample") -> dict[str, Path]:
    """VILA-1.5's layout: ``llm/``, ``vision_tower/``, ``mm_projector/`` and an outer config."""
    from mmbuild.models.families.vila.visual import Projector

    eyes, llm = tower(seed, "siglip"), randomize(LlamaForCausalLM(llama_config(seed)), seed)
    llm.save_pretrained(out / "llm")
    eyes.save_pretrained(out / "vision_tower")
    made = randomize(Projector(projector, eyes.config.hidden_size, llm.config.hidden_size), seed)
    (out / "mm_projector").mkdir()
    save_file(made.state_dict(), out / "mm_projector" / "model.safetensors")
    kind = {"mm_projector_type": projector, "model_type": "v2l_projector"}
    _write(out / "mm_projector" / "config.json", kind)
    config = {
        "model_type": "llava_llama",
        "hidden_size": llm.config.hidden_size,
        "mm_hidden_size": eyes.config.hidden_size,
        "image_aspect_ratio": "resize",
        "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2,
        "llm_cfg": llm.config.to_dict(),
        "vision_tower_cfg": eyes.config.to_dict(),
        "mm_projector_cfg": kind,
    }
    _write(out / "config.json", config)
    part("vila", "processor").write_stand_in(config, out)
    return {"model": out}


def save_flat_vila(
    seed: int, root: Path, projector: str = "mlp2x_gelu", *, trained_tower: bool = False
) -> dict[str, Path]:
    """The first VILA's layout: everything but the tower in one directory, the tower as second source."""
    from mmbuild.models.families.vila.visual import Projector

    sources = {"model": root / "model", "vision": root / "vision"}
    eyes, llm = tower(seed, "clip"), randomize(LlamaForCausalLM(llama_config(seed)), seed)
    eyes.save_pretrained(sources["vision"])
    made = randomize(Projector(projector, eyes.config.hidden_size, llm.config.hidden_size), seed).state_dict()
    tensors = dict(llm.state_dict())
    tensors |= {name.replace("layers", "model.mm_projector", 1): value for name, value in made.items()}
    if trained_tower:
        own = tower(seed, "clip")
        randomize(own, seed + 5)
        start = "model.vision_tower.vision_tower.vision_model."
        tensors |= {start + name: value for name, value in own.state_dict().items()}
    sources["model"].mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, sources["model"] / "model.safetensors"
    )
    config = {
        **llm.config.to_dict(),
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "image_aspect_ratio": "pad",
        "mm_hidden_size": eyes.config.hidden_size,
        "mm_projector_type": projector,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    _write(sources["model"] / "config.json", config)
    part("vila", "processor").write_stand_in(config, sources["model"])
    part("vila", "processor").write_stand_in(eyes.config.to_dict(), sources["vision"])
    return sources


def visual_shape(name: str, sources: Mapping[str, Path]) -> dict[str, Any]:
    """What the sources' configs say of the visual module."""
    configs = {source: json.loads((path / "config.json").read_text()) for source, path in sources.items()}
    return step_params.visual_shape(name, configs)


def visual_module(
    name: str, sources: Mapping[str, Path], dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """The visual module for the sources' configs, with random weights."""
    module: torch.nn.Module = part(name, "visual").make(visual_shape(name, sources), dtype).eval()
    return module


def filled(name: str, sources: Mapping[str, Path]) -> torch.nn.Module:
    """The visual module of the family called ``name``, every parameter taken from the files by its canonical name."""
    visual, module = part(name, "visual"), visual_module(name, sources)
    required = {
        visual.canonical("module", parameter): value for parameter, value in module.named_parameters()
    }
    for source, directory in sources.items():
        for file in sorted(directory.rglob("*.safetensors")):
            below = "" if file.parent == directory else f"{file.parent.name}/"
            for stored, tensor in load_file(file).items():
                place = required.pop(visual.canonical(source, below + stored), None)
                if place is not None:
                    place.data.copy_(tensor)
    assert not required, f"no tensor for {sorted(required)}"
    return module


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
