"""Reads sections of ``config.json`` as transformers' config classes (5.17) do, without importing transformers.

``PreTrainedConfig`` sets the keys of a class first, in their own names and checked by kind, derives what follows
from them, and then sets everything else that the file says, under its aliases, so that an alias wins. Keys, kinds,
aliases and defaults are in ``fields.yaml`` and ``defaults.yaml``; what a class does in ``__post_init__`` is below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from mmbuild.models.families.defaults import ConfigClass, config_class, table
from mmbuild.models.families.facts import FamilyError

MISSING = object()  # instead of a value: the key is missing


def parse(model_type: str, section: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The attributes of transformers' config object for ``section``.

    Args:
        model_type: Which class reads it; the section's own ``model_type`` is not looked at.
        section: A mapping of ``config.json``, or the whole.
        where: What stands before its keys in messages: ``text_config.``.

    Raises:
        FamilyError: MM411, a value that the class, or the module built from it, does not accept.
    """
    rules = config_class(model_type)
    values: dict[str, Any] = {}
    for key, kind in rules.fields.items():
        values[key] = section.get(key, rules.defaults.get(key))
        _require_kind(where, key, values[key], kind, rules.defaults.get(key))
    _require_choices(rules, values, where)
    _DERIVED.get(model_type, _derive_nothing)(values, section, where)
    for key, value in section.items():
        if key in rules.fields or (model_type, key) in _TAKEN:
            continue
        target = rules.aliases.get(key, key)
        if target in rules.fields:
            _require_kind(where, key, value, rules.fields[target], rules.defaults.get(target))
        values[target] = value
    _require_common(values, where)
    _require_few_layers(values, rules, where)
    for width, heads in rules.multiples:
        require_multiple(values, where, width, heads)
    return values


def wrong_value(where: str, key: str, value: object, expected: str, default: object = None) -> FamilyError:
    """MM411: the value of a key cannot be used, null included, or the key is :data:`MISSING`."""
    hint = "compare config.json with the model's original"
    if default is not None:
        hint += f", or remove the key to use transformers' default, {display(default)}"
    says = f"`{where}{key}` in config.json is {display(value)}, and" if value is not MISSING else ""
    lacks = f"config.json has no `{where}{key}`, which"
    return FamilyError(f"{says or lacks} must be {expected}", code="MM411", hint=hint)


def display(value: object) -> str:
    """A value of ``config.json`` in one short line, as JSON."""
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, list | tuple) and any(isinstance(item, list | tuple | Mapping) for item in value):
        return "a nested list"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_int(value: object) -> bool:
    # Sizes and ids are stored in 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: object) -> bool:
    """Whether ``value`` is a 64-bit int or a finite float; booleans are not numbers."""
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list | tuple) and all(check(item) for item in value)


def _is_mapping_to(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, Mapping) and all(check(item) for item in value.values())


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# The words of `fields.yaml`: the check, and what a message calls it. As in transformers a whole number is not taken
# where a number with a decimal point is expected.
_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "int": (_is_int, "a whole number"),
    "float": (lambda value: isinstance(value, float), "a number with a decimal point or exponent"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (_is_text, "a string"),
    "ints": (_is_list_of(_is_int), "a list of whole numbers"),
    "strs": (_is_list_of(_is_text), "a list of strings"),
    "section": (lambda value: isinstance(value, Mapping), "a section (a JSON object)"),
    "labels": (_is_mapping_to(_is_text), "a section whose values are strings"),
    "counts": (_is_mapping_to(_is_int), "a section whose values are whole numbers"),
    "any": (lambda _value: True, "anything"),
}


def is_kind(value: object, kind: str) -> bool:
    """Whether ``value`` is of a kind as ``fields.yaml`` spells it."""
    if value is None:
        return kind.endswith("?")
    return any(_KINDS[word][0](value) for word in kind.removesuffix("?").split("|"))


def _describe_kind(kind: str) -> str:
    """A kind in words."""
    names = kind.removesuffix("?")
    words = ["a number"] if names == "int|float" else [_KINDS[word][1] for word in names.split("|")]
    return " or ".join([*words, "null"] if kind.endswith("?") else words)


def _require_kind(where: str, key: str, value: object, kind: str, default: object) -> None:
    if is_kind(value, kind):
        return
    large = isinstance(value, int) and not isinstance(value, bool) and not _is_int(value)
    raise wrong_value(
        where, key, value, "a number of at most 64 bits" if large else _describe_kind(kind), default
    )


def _require_choices(rules: ConfigClass, values: Mapping[str, Any], where: str) -> None:
    for key, allowed in rules.choices.items():
        if values.get(key) is not None and values[key] not in allowed:
            expected = " or ".join(f"`{choice}`" for choice in allowed)
            raise wrong_value(where, key, values[key], expected, rules.defaults.get(key))
    for key, (lower, upper) in rules.within.items():
        if not lower <= values[key] <= upper:
            raise wrong_value(where, key, values[key], f"between {lower} and {upper}", rules.defaults[key])


def require_multiple(values: Mapping[str, Any], where: str, width: str, heads: str) -> None:
    """Refuse a width that heads do not divide.

    Raises:
        FamilyError: MM411, they do not, or there are none.
    """
    if values[heads] < 1:
        raise wrong_value(where, heads, values[heads], "at least 1")
    if values[width] % values[heads]:
        raise wrong_value(where, width, values[width], f"a multiple of `{where}{heads}`, {values[heads]}")


def _require_common(values: Mapping[str, Any], where: str) -> None:
    """Checks that ``PreTrainedConfig`` makes for every class."""
    # `dtype` goes before its older name, and is looked up in torch.
    key = "torch_dtype" if values.get("dtype") is None else "dtype"
    dtypes, dtype = table("fields.yaml")["every"]["dtypes"], values.get(key)
    if dtype not in dtypes if isinstance(dtype, str) else not is_kind(dtype, "section?"):
        raise wrong_value(where, key, values[key], "the name of a number format in torch, such as `float16`")
    if values.get("per_layer_config"):
        raise FamilyError(
            f"`{where}per_layer_config` in config.json makes layers differ; only layers of one shape are supported",
            code="MM411",
            hint="use a model whose layers all have one shape",
        )
    if values["id2label"] is None and not is_kind(values.get("num_labels", 2), "int"):
        raise wrong_value(where, "num_labels", values["num_labels"], "a whole number", 2)
    if not all(_is_whole(label) for label in values["id2label"] or ()):
        raise wrong_value(where, "id2label", values["id2label"], "a section whose keys are whole numbers")
    if "use_return_dict" in values:
        raise wrong_value(
            where, "use_return_dict", values["use_return_dict"], "removed: transformers cannot set it"
        )


_MOST_LAYERS = 4096
"""Many more than any model has, and few enough to list the tensors of each."""


def _require_few_layers(values: Mapping[str, Any], rules: ConfigClass, where: str) -> None:
    for key in rules.fields:
        value = values[key]
        counts = [value] if key.endswith("layers") else value if key == "depths" else []
        if any(_is_int(count) and count > _MOST_LAYERS for count in counts):
            raise wrong_value(where, key, value, f"at most {_MOST_LAYERS:,} layers", rules.defaults.get(key))


def _is_whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _derive_nothing(_values: dict[str, Any], _section: Mapping[str, Any], _where: str) -> None:
    """A class that derives nothing."""


def _llama(values: dict[str, Any], _section: Mapping[str, Any], where: str) -> None:
    heads = values["num_attention_heads"]
    if heads == 0:
        raise wrong_value(where, "num_attention_heads", heads, "at least 1", 32)
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // heads
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = heads


def _opt(values: dict[str, Any], _section: Mapping[str, Any], _where: str) -> None:
    if values["word_embed_proj_dim"] is None:
        values["word_embed_proj_dim"] = values["hidden_size"]


def _t5(values: dict[str, Any], section: Mapping[str, Any], where: str) -> None:
    if values["num_decoder_layers"] is None:
        values["num_decoder_layers"] = values["num_layers"]
    kind = values["feed_forward_proj"]
    parts = kind.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise wrong_value(
            where, "feed_forward_proj", kind, "an activation, or `gated-` and an activation", "relu"
        )
    values["is_gated_act"] = parts[0] == "gated"
    values["dense_act_fn"] = "gelu_new" if kind == "gated-gelu" else parts[-1]
    values["scale_decoder_outputs"] = section.get("tie_word_embeddings") is not False
    # transformers says true here whatever the file says, and uses a head that is stored.
    values["tie_word_embeddings"] = section.get("tie_word_embeddings") is not False


def _donut_swin(values: dict[str, Any], _section: Mapping[str, Any], where: str) -> None:
    stages = len(values["depths"])
    if not stages:
        raise wrong_value(where, "depths", values["depths"], "a list of at least one number", [2, 2, 6, 2])
    values["num_layers"] = stages
    values["hidden_size"] = values["embed_dim"] * 2 ** (stages - 1)


_DERIVED: Mapping[str, Callable[[dict[str, Any], Mapping[str, Any], str], None]] = {
    "llama": _llama,
    "opt": _opt,
    "t5": _t5,
    "donut-swin": _donut_swin,
}
# Keys that a class takes for itself before the others are set.
_TAKEN = (("t5", "tie_word_embeddings"),)
