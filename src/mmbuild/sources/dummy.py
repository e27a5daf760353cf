"""A model of real shapes with random weights, for builds and benchmarks that need no download.

Values are a stand-in: one block of normal numbers (standard deviation 0.02) drawn from the seed, read over and
over from another place for every tensor. Norms are ones and biases zeros, as in a fresh model. That keeps
activations finite and is as fast as writing; the answers of such a model mean nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.checkpoint import writer
from mmbuild.checkpoint.progress import Progress
from mmbuild.sources.errors import SourceError
from mmbuild.sources.resolve import source_files

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 4 << 30
# Not a multiple of any row, so that rows of one tensor differ.
_BLOCK = 8_388_593
_STEP = 1_299_709
_DEVIATION = 0.02


def copy_small_files(model: Path, out: Path) -> None:
    """Config, tokenizer and processor of a directory."""
    for path in source_files(model, weights=False):
        shutil.copyfile(path, out / path.name)


def write_weights(
    config: Mapping[str, Any], out: Path, seed: int, dtype: str, progress: Progress, *, shard: int = SHARD
) -> None:
    """Write all tensors of the model, shard by shard, and their index; ``config.json`` where it is not there.

    Args:
        config: The model's ``config.json``.
        out: An existing directory.
        seed: Of the block of numbers.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        progress: Told the shard and the share done.
        shard: Bytes of a shard at most, one tensor at least.

    Raises:
        SourceError: MM440, transformers knows no such model.
    """
    import torch

    if not (out / "config.json").exists():
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    entries = [writer.Entry(name, dtype, shape) for name, shape in tensor_shapes(config).items()]
    shards = list(_shards(entries, shard))
    block = torch.empty(_BLOCK).normal_(0, _DEVIATION, generator=torch.Generator().manual_seed(seed))
    block = block.to(getattr(torch, dtype))
    place = {entry.name: i for i, entry in enumerate(entries)}
    names = _names(len(shards))
    for i, (file, shard_entries) in enumerate(zip(names, shards, strict=True)):
        progress(f"writing {file}", i / len(shards))
        ordered = writer.layout(shard_entries)
        parts = ((entry.name, _values(entry, block, place[entry.name])) for entry in ordered)
        writer.write(out / file, ordered, parts)
    if len(shards) > 1:
        _write_index(out, dict(zip(names, shards, strict=True)))
    progress("random weights written", 1.0)


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model, from transformers' own modules without their memory.

    Raises:
        SourceError: MM440, transformers knows no such model.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        kind = CONFIG_MAPPING[config["model_type"]]
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(kind.from_dict(dict(config)))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SourceError(
            f"transformers makes no model of this config.json: {type(error).__name__} {error}".splitlines()[
                0
            ],
            code="MM440",
            hint="Check config.json, or use the model's real weights",
        ) from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def _shards(entries: list[writer.Entry], limit: int) -> Iterator[list[writer.Entry]]:
    shard: list[writer.Entry] = []
    size = 0
    for entry in entries:
        if shard and size + entry.size > limit:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += entry.size
    yield shard


def _names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def _values(entry: writer.Entry, block: Tensor, index: int) -> Iterator[Tensor]:
    """The values of one tensor, in pieces that are views of the block."""
    import torch

    count = 1
    for size in entry.shape:
        count *= size
    if len(entry.shape) <= 1 and ("norm" in entry.name or entry.name.endswith("bias")):
        yield torch.full(entry.shape, 0.0 if entry.name.endswith("bias") else 1.0, dtype=block.dtype)
        return
    start = index * _STEP % len(block)
    while count:
        piece = block[start : start + count]
        yield piece
        count -= len(piece)
        start = 0


def _write_index(out: Path, shards: Mapping[str, list[writer.Entry]]) -> None:
    content = {
        "metadata": {"total_size": sum(entry.size for shard in shards.values() for entry in shard)},
        "weight_map": {entry.name: file for file, shard in shards.items() for entry in shard},
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_processor(config: Mapping[str, Any], out: Path) -> None:
    """A stand-in tokenizer with the model's special tokens, and the model's image preprocessing.

    The tokenizer knows every byte, and a numbered word for every other id of the vocabulary, so that any
    text can be asked and any answer printed.

    Raises:
        SourceError: MM440, no stand-in is known for the model.
    """
    makers = {"llava": _llava_processor}
    kind = str(config.get("model_type"))
    if kind not in makers:
        raise SourceError(
            f"no stand-in processor is known for model_type `{kind}`",
            code="MM440",
            hint="Use dummy:// and a directory that holds the model's config, tokenizer and processor",
        )
    makers[kind](config).save_pretrained(out)


def _llava_processor(config: Mapping[str, Any]) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    from mmbuild.families import family

    facts = family("llava").facts(config)
    assert facts.image_token_id is not None
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": facts.image_token_id}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(facts.llm.vocab_size, special),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<image>"],
    )
    side = facts.visual.image_size[0]
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=int(config["vision_config"].get("patch_size", 32)),
        vision_feature_select_strategy=config.get("vision_feature_select_strategy", "default"),
        num_additional_image_tokens=1,
    )


def _byte_tokenizer(vocabulary: int, special: Mapping[str, int]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    taken = set(special.values())
    free = iter(i for i in range(vocabulary) if i not in taken)
    words = dict(special)
    words |= {byte: next(free) for byte in sorted(pre_tokenizers.ByteLevel.alphabet())}
    words |= {f"[{i}]": i for i in free}
    core = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return core
