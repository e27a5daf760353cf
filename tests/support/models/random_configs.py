"""Random ``config.json`` of every family, in old and new spellings, with nulls, missing keys and wrong values.

Values are drawn key by key from what a config class takes, so that a new key of a class is drawn too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmbuild.models.families.defaults import config_class

Config = dict[str, Any]

# What no key takes, or hardly any.
_WRONG: tuple[Any, ...] = (
    "x", "7", "", True, False, 3.0, 2.5, -1, 0, 10**30, [], [1], [2, 2], ["a"], {}, {"a": 1},
    float("nan"), float("inf"),
)  # fmt: skip
# Keys that a class reads though they are not its own, and what they may hold.
_EXTRA: dict[str, dict[str, tuple[Any, ...]]] = {
    "llava": {"eos_token_id": (0, 2, [2, 5], None), "vocab_size": (7,)},
    "llama": {"torch_dtype": ("float16", "torch.float16", "auto", None), "sliding_window": (None, 4096, 16)},
    "t5": {
        "tie_word_embeddings": (True, False, None),
        "scale_decoder_outputs": (True, False, None),
        "is_gated_act": (True, False, None),
        "dense_act_fn": ("gelu", "relu", None),
        "decoder_start_token_id": (0, 3, None),
        "bos_token_id": (1, None),
    },
    "blip-2": {"use_decoder_only_language_model": (True, False, None)},
    "vision-encoder-decoder": {
        "eos_token_id": (0, 2, None), "bos_token_id": (0, 5, None), "decoder_start_token_id": (0, 7, None),
    },
    "donut-swin": {"hidden_size": (768, 384, None), "num_layers": (4,)},
    "mbart": {"add_cross_attention": (True, False, None), "cross_attention_hidden_size": (1024, 768, None)},
}  # fmt: skip
_TEXTS = ("gelu", "relu", "silu", "gated-gelu", "gated-silu", "default", "full")
# Keys whose values hardly fit a model by chance.
_LIKELY: dict[str, tuple[Any, ...]] = {
    "num_channels": (3,),
    "patch_size": (4, 8),
    "image_size": (224, 32, 33),
    "hidden_act": ("silu", "gelu", "relu"),
    "activation_function": ("relu", "gelu"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "is_encoder_decoder": (False,),
    "feed_forward_proj": ("relu", "gated-gelu", "gated-silu", "gelu"),
    "vision_feature_select_strategy": ("default", "full"),
    "vision_feature_layer": (-2, -1, 1, [-2, -1]),
    "problem_type": (None,),
    "enable_bias": (True,),
    "layer_norm_elementwise_affine": (True,),
    "use_absolute_embeddings": (False,),
    "word_embed_proj_dim": (None,),
    "num_heads": (4, [3, 6, 12, 24], [1, 2, 4, 8]),
}
_ROPE: dict[str, tuple[float, tuple[Any, ...]]] = {
    "rope_type": (0.7, ("default", "linear", "llama3", "llama3", "dynamic", "yarn", None)),
    "type": (0.3, ("linear", "default", "llama3", "su", None)),
    "factor": (0.9, (2.0, 4, 8.0, 0.5, None, "2")),
    "rope_theta": (0.4, (5e5, 10000, 1000000, 20000.0, None, "x")),
    "low_freq_factor": (0.8, (1.0, 1, 1.0, None)),
    "high_freq_factor": (0.8, (4.0, 4, 4.0, 1.0, None)),
    "original_max_position_embeddings": (0.3, (64, 8192, 128.0, None)),
    "partial_rotary_factor": (0.1, (1.0, 0.5, 1, None)),
}


@dataclass(frozen=True, slots=True)
class Drawer:
    """Draws configs.

    Attributes:
        rng: Where chance comes from.
        wrong: How likely a drawn key holds null, and as likely something that it does not take.
    """

    rng: random.Random
    wrong: float

    def config(self, family: str) -> tuple[Config, Config | None]:
        """``config.json`` of a model and of its second source, where it has one."""
        return {
            "llava": self._llava,
            "vila": self._vila,
            "blip2-opt": lambda: self._blip2("opt"),
            "blip2-t5": lambda: self._blip2("t5"),
            "nougat": self._nougat,
        }[family]()

    def _llava(self) -> tuple[Config, None]:
        text = self._llama()
        if self._chance(0.5):
            text["model_type"] = "llama"
        root = {"model_type": "llava", **self.section("llava")}
        root |= self._present("text_config", text) | self._present(
            "vision_config", self.section("clip_vision_model")
        )
        return root, None

    def _vila(self) -> tuple[Config, Config | None]:
        if self._chance(0.5):
            tower = self.rng.choice(["siglip_vision_model", "clip_vision_model"])
            inside = {
                "model_type": "llava_llama",
                "llm_cfg": {"model_type": "llama", **self._llama()},
                "vision_tower_cfg": {"model_type": tower, **self.section(tower)},
                "mm_projector_cfg": {"mm_projector_type": "linear"},
                "mm_vision_select_feature": "cls_patch",
            }
            return inside, None
        flat = {"model_type": "llava_llama", "mm_vision_tower": "a/b", **self._llama()}
        eyes = self.section("clip_vision_model")
        whole = self._chance(0.5)
        return flat, {"model_type": "clip", "vision_config": eyes} if whole else {
            "model_type": "clip_vision_model",
            **eyes,
        }

    def _blip2(self, kind: str) -> tuple[Config, Config | None]:
        text = {"model_type": kind, **self.section(kind)}
        whole = {"model_type": "blip-2", **self.section("blip-2")}
        whole |= self._present("vision_config", self.section("blip_2_vision_model"))
        whole |= self._present("qformer_config", self.section("blip_2_qformer"))
        if self._chance(0.3):
            return text, {**whole, "text_config": {"model_type": kind}}
        return {**whole, **self._present("text_config", text)}, None

    def _nougat(self) -> tuple[Config, None]:
        root = {"model_type": "vision-encoder-decoder", **self.section("vision-encoder-decoder")}
        root |= self._present("encoder", {"model_type": "donut-swin", **self.section("donut-swin")})
        root |= self._present("decoder", {"model_type": "mbart", **self.section("mbart")})
        return root, None

    def section(self, kind: str) -> Config:
        """A few keys of a class, of its aliases, and of what else is read."""
        rules = config_class(kind)
        drawn: Config = {}
        own = {key: rules.fields[key] for key in rules.fields if not rules.fields[key].startswith("section")}
        own |= {name: own.get(key, "int") for name, key in rules.aliases.items()}
        own.pop("architectures")
        extra = _EXTRA.get(kind, {})
        for key in self.rng.sample([*own, *extra], self.rng.randint(0, 6)):
            if self._chance(self.wrong):
                drawn[key] = None
            elif self._chance(self.wrong):
                drawn[key] = self.rng.choice(_WRONG)
            else:
                drawn[key] = self._value(key, own[key]) if key in own else self.rng.choice(extra[key])
        return drawn

    def _value(self, key: str, kind: str) -> Any:
        words: Sequence[str] = kind.removesuffix("?").split("|")
        sizes = [8, 16, 24, 32] if key.endswith(("size", "d_model", "dim")) else [1, 2, 4, 8]
        if key in _LIKELY and not self._chance(self.wrong):
            return self.rng.choice(_LIKELY[key])
        return {
            "int": lambda: self.rng.choice(sizes),
            "float": lambda: self.rng.choice([1e-5, 1e-6, 0.5, 2.0]),
            "bool": lambda: self.rng.random() < 0.5,
            "str": lambda: self.rng.choice(_TEXTS),
            "ints": lambda: [self.rng.choice([1, 2, 4]) for _ in range(self.rng.choice([1, 2, 4]))],
            "labels": lambda: {"0": "a"},
            "counts": lambda: {"a": 1},
            "any": lambda: self.rng.choice(["float16", "float32"]),
        }[self.rng.choice(words)]()

    def _llama(self) -> Config:
        text = self.section("llama")
        if self._chance(0.4):
            text["rope_theta"] = self.rng.choice([5e5, 10000, 20000.0, 123456789, None, "x"])
        if self._chance(0.5):
            text["rope_scaling"] = self._rope()
        if self._chance(0.4):
            text["rope_parameters"] = self._rope()
        if self._chance(0.3):
            text["original_max_position_embeddings"] = self.rng.choice([64, 8192, 512.0, None, "x"])
        if self._chance(0.1):
            text["partial_rotary_factor"] = self.rng.choice([1.0, 0.5, None])
        if self._chance(0.05):
            text["layer_types"] = self.rng.choice([None, ["full_attention"] * 32, ["sliding_attention"] * 32])
        return text

    def _rope(self) -> Any:
        if self._chance(0.2):
            return self.rng.choice([None, {}, [], "linear", 3])
        return {key: self.rng.choice(values) for key, (often, values) in _ROPE.items() if self._chance(often)}

    def _present(self, key: str, value: Config) -> Config:
        """The section, or null, or nothing."""
        if self._chance(0.8):
            return {key: value}
        return {key: None} if self._chance(0.5) else {}

    def _chance(self, likely: float) -> bool:
        return self.rng.random() < likely
