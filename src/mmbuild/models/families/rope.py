"""Resolves the rotary positions of a LLaMA config like transformers 5.17.

A config states base and scaling in up to four places and two spellings. ``RotaryEmbeddingConfigMixin`` in
transformers' ``modeling_rope_utils.py`` merges them into one mapping; engines and checkpoints use that form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.models.families.facts import FamilyError
from mmbuild.models.families.transformers_config import display, is_kind, is_number, wrong_value

DEFAULT = "default"
# Supported kinds with their required numbers; mmbuild.backends.torch.positions implements them.
BUILT: Mapping[str, tuple[str, ...]] = {
    DEFAULT: (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_DEFAULT_BASE = 10000.0
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions of a decoder.

    Attributes:
        base: Base of the frequencies.
        scaling: ``rope_type`` and the numbers of :data:`BUILT`; None without scaling.
    """

    base: float
    scaling: Mapping[str, Any] | None = None


def resolve(text: Mapping[str, Any], where: str) -> Rotary:
    """Resolve base and scaling.

    ``rope_scaling`` takes precedence over ``rope_parameters``, ``rope_theta`` inside over the one outside, and
    ``rope_type`` over its older spelling ``type``.

    Args:
        text: The decoder's config, as :func:`mmbuild.models.families.transformers_config.parse` returns it for
            ``llama``.
        where: Prefix of its keys in messages.

    Raises:
        FamilyError: MM503, an unsupported kind of scaling; MM411, an invalid value.
    """
    place = "rope_scaling" if text.get("rope_scaling") else "rope_parameters"
    written = text.get(place) or {}
    if not is_kind(written, "section"):
        raise wrong_value(where, place, written, "a section (a JSON object) or null")
    inside = f"{where}{place}."
    _require_one_for_all_layers(text, written, where)
    base = _base(text, written, where, inside)
    kind = _kind(written, inside)
    if kind == DEFAULT:
        return Rotary(base)
    _require_whole_heads(text, written, inside)
    numbers = {name: _number(text, written, name, where, inside) for name in BUILT[kind]}
    return Rotary(base, {"rope_type": kind, **numbers})


def _base(text: Mapping[str, Any], written: Mapping[str, Any], where: str, inside: str) -> float:
    place, found = inside, written
    if "rope_theta" not in written:
        place, found = where, text
    value = found.get("rope_theta", _DEFAULT_BASE)
    if not is_number(value) or value <= 0:
        raise wrong_value(place, "rope_theta", value, "a number above 0", _DEFAULT_BASE)
    return float(value)


def _kind(written: Mapping[str, Any], inside: str) -> str:
    key = "type" if "type" in written and "rope_type" not in written else "rope_type"
    kind = written.get(key, DEFAULT)
    if not isinstance(kind, str):
        raise wrong_value(inside, key, kind, "the name of a kind of scaling", DEFAULT)
    if kind not in BUILT:
        raise FamilyError(
            f"`{inside}{key}` in config.json is {display(kind)}, a kind of rotary scaling that is not supported",
            code="MM503",
            hint=f"use a model with one of {', '.join(BUILT)}, such as the model before its context was extended",
        )
    return kind


def _number(
    text: Mapping[str, Any], written: Mapping[str, Any], name: str, where: str, inside: str
) -> int | float:
    """One number of a scaling. The original length has a default, and one outside the scaling takes precedence."""
    place: str = inside
    value: Any = written.get(name)
    if name == _ORIGINAL:
        value = written.get(name, text["max_position_embeddings"])
        if name in text and is_number(value):
            place, value = where, text[name]
    if not is_number(value) or value <= 0:
        raise wrong_value(place, name, value, "a number above 0")
    number: int | float = value
    return number


def _require_whole_heads(text: Mapping[str, Any], written: Mapping[str, Any], inside: str) -> None:
    share = written.get("partial_rotary_factor", text.get("partial_rotary_factor"))
    share = 1.0 if share is None and "partial_rotary_factor" not in written else share
    if not is_number(share) or int(text["head_dim"] * share) != text["head_dim"]:
        raise wrong_value(
            inside,
            "partial_rotary_factor",
            share,
            "1.0; only heads that rotate over their whole width are supported",
            1.0,
        )


def _require_one_for_all_layers(text: Mapping[str, Any], written: Mapping[str, Any], where: str) -> None:
    """Check that all layers have the same attention and positions; transformers' LLaMA supports nothing else."""
    layers = text.get("layer_types")
    if layers is None:
        return
    count = text["num_hidden_layers"]
    alike = isinstance(layers, list | tuple) and all(layer == "full_attention" for layer in layers)
    if not alike or len(layers) != count or "full_attention" in written:
        raise wrong_value(
            where, "layer_types", layers, f"left out, or `full_attention` for each of the {count} layers"
        )
