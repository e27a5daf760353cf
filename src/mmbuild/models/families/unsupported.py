"""Rejects sources that no family can build, from ``config.json`` alone.

These are quantized weights, images cut into tiles, mixtures of experts, and checkpoints for other tasks. They are
rejected before anything else is downloaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmbuild.models.families.defaults import table
from mmbuild.models.families.facts import Config, FamilyError
from mmbuild.models.families.recognize import (
    REPOSITORY,
    is_original_layout,
    not_any_family,
    similar_kind,
    types_of,
    wrong_family,
)
from mmbuild.models.families.transformers_config import display, is_kind, wrong_value

_VISION = ("model.vision.source",)
_TILES = "only towers that see each picture once, at one size, are supported"
# Much deeper than any real config, and far below Python's recursion limit.
_DEEPEST = 100
# Keys that quantizers write: transformers, compressed-tensors, Model Optimizer and MLX.
_QUANTIZATION = (
    "quantization_config",
    "compression_config",
    "quantization",
    "quant_config",
    "hf_quant_config",
)
_SOMEHOW = "so"  # without naming the method
_BASES = ("base_model", "base_model_name_or_path", "_name_or_path", "name_or_path")
_QUANTIZED_NAME = re.compile(
    r"(?i)awq|gptq|bnb|gguf|exl2|hqq|nf4|fp8|fp4|quant|int[48]|[48][-_]?bit|w[48]a(8|16)|mlx"
)


@contextmanager
def about_second_source() -> Iterator[None]:
    """Attribute every finding inside the block to ``model.vision``."""
    try:
        yield
    except FamilyError as error:
        raise FamilyError(
            error.message.replace("config.json", "the config.json of model.vision", 1),
            code=error.code,
            hint=error.hint,
            blame=_VISION,
        ) from error


def require_supported(config: Config, family: str, second: Config | None = None) -> None:
    """Check that some family can build a source.

    Args:
        config: The model's ``config.json``.
        family: The recipe's.
        second: ``config.json`` of the second source, if there is one.

    Raises:
        FamilyError: MM410, a kind of model that no family builds; MM710, weights that are already quantized; MM711, a
            checkpoint made for another task; MM411, tiles, experts, or values that are not JSON.
    """
    _require_json(config)
    kind = config.get("model_type")
    if not any(kind in row["model_type"] for row in table("recognized.yaml")["families"]):
        raise wrong_family(config, family)
    _require_unquantized(config)
    _require_one_picture(config)
    if kind in types_of(family):
        _require_task(config, family)
    if second is not None:
        with about_second_source():
            _require_json(second)
            _require_unquantized(second)
            _require_task(second, family)


def _require_json(config: Config) -> None:
    """Check for values that Python accepts but JSON does not, because keys of builds are hashes of the whole file."""
    todo: list[tuple[str, object, int]] = [("", config, 0)]
    while todo:
        where, value, depth = todo.pop()
        if depth > _DEEPEST:
            raise wrong_value("", where.split(".")[0], value, f"nested at most {_DEEPEST} levels deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise wrong_value("", where, value, "a number; JSON has no NaN and no infinities")
        if isinstance(value, str) and not _is_unicode(value):
            raise wrong_value("", where, value, "valid Unicode")
        if isinstance(value, Mapping):
            prefix = f"{where}." if where else ""
            for key, item in value.items():
                if isinstance(key, str) and not _is_unicode(key):
                    raise wrong_value(prefix, display(key), item, "a key that is valid Unicode")
                todo.append((f"{prefix}{key}", item, depth + 1))
        elif isinstance(value, list | tuple):
            todo += ((where, item, depth + 1) for item in value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _require_unquantized(config: Config) -> None:
    sections = [("", config), *((f"{key}.", value) for key, value in config.items())]
    for where, section in sections:
        for key in _QUANTIZATION if isinstance(section, Mapping) else ():
            method = _method(section.get(key))
            if method is not None:
                raise FamilyError(
                    f"the weights are already quantized: `{where}{key}` in config.json says {method}",
                    code="MM710",
                    hint=f"use {_base(config)}; mmbuild quantizes it as `engine.quantization` says",
                )


def _method(written: object) -> str | None:
    """Short description of the quantization of the weights; None if they are not quantized."""
    if isinstance(written, str) and written:
        return display(written)
    if not isinstance(written, Mapping) or all(
        value in (None, False, "", {}, []) for value in written.values()
    ):
        return None
    if written.get("load_in_8bit") or written.get("load_in_4bit"):
        return display("bitsandbytes")
    for key in ("quant_method", "quant_algo", "format", "kv_cache_quant_algo"):
        if isinstance(written.get(key), str):
            return display(written[key])
    bits = written.get("bits", written.get("w_bit"))
    if is_kind(bits, "int"):
        return f"{bits} bits"
    inner = [_method(value) for value in written.values() if isinstance(value, Mapping)]
    return next((method for method in inner if method not in (None, _SOMEHOW)), _SOMEHOW)


def _base(config: Config) -> str:
    """The unquantized model, if the config names it."""
    for key in _BASES:
        name = config.get(key)
        if isinstance(name, str) and REPOSITORY.fullmatch(name) and not _QUANTIZED_NAME.search(name):
            return f"the unquantized model, `hf://{name}` according to config.json"
    return "the model's unquantized weights (float32, float16 or bfloat16)"


def _require_one_picture(config: Config) -> None:
    """Check for tiled images and mixtures of experts, by LLaVA's and VILA's original keys."""
    aspect, merge = config.get("image_aspect_ratio"), config.get("mm_patch_merge_type")
    if isinstance(aspect, str) and aspect.startswith(("anyres", "dynamic")):
        raise _tiles("image_aspect_ratio", aspect, "pictures are cut into tiles")
    if isinstance(merge, str) and re.search("spatial|unpad", merge):
        raise _tiles("mm_patch_merge_type", merge, "the tiles of a picture are joined")
    if config.get("image_grid_pinpoints"):
        raise _tiles(
            "image_grid_pinpoints", config["image_grid_pinpoints"], "pictures are cut into one of these grids"
        )
    for key in ("s2", "use_s2", "dynamic_s2", "ps3"):
        if config.get(key):
            raise _tiles(key, config[key], "a picture is seen at several sizes")
    experts = config.get("moe")
    if (isinstance(experts, Mapping) and experts.get("moe_enable", bool(experts))) or experts is True:
        raise FamilyError(
            "`moe` in config.json describes a mixture of experts; only decoders with one MLP per layer are supported",
            code="MM411",
            hint="use a model with a plain LLaMA decoder",
        )


def _tiles(key: str, value: object, meaning: str) -> FamilyError:
    return FamilyError(
        f"`{key}` in config.json is {display(value)}: {meaning}; {_TILES}",
        code="MM411",
        hint="use a model that takes whole pictures: LLaVA 1.5, VILA or VILA-1.5",
    )


def _require_task(config: Config, family: str) -> None:
    """Check that the checkpoint's class generates text about images."""
    classes, kind = config.get("architectures"), config.get("model_type")
    if not is_kind(classes, "strs?"):
        raise wrong_value("", "architectures", classes, "a list of names of classes, or null")
    kind = "llava_llama" if is_original_layout(config) else kind
    whole = table("recognized.yaml")["architectures"].get(kind) if isinstance(kind, str) else None
    if not classes or whole is None or any(_fits(name, whole) for name in classes):
        return
    other = similar_kind(architecture=classes[0])
    if other is not None:
        raise not_any_family(other, f"`architectures` says {display(classes[0])}", code="MM711")
    raise FamilyError(
        f"`architectures` in config.json is {display(classes[0])}, a model for another task; "
        f"family {family} needs {' or '.join(f'`{name}`' for name in whole)}",
        code="MM711",
        hint=f"use a checkpoint that was saved as `{whole[0]}`",
    )


def _fits(name: str, whole: list[str]) -> bool:
    if name in whole:
        return True
    return similar_kind(architecture=name) is None and bool(
        re.search(table("recognized.yaml")["generates"], name)
    )
