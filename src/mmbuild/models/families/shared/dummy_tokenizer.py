"""A tokenizer for models with random weights, which can encode any text and decode any ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tokenizer(
    vocabulary: int, special: Mapping[str, int], *, template: str = "<s> $A", pad: str = "</s>"
) -> Any:
    """A fast tokenizer with a token for every byte, and a numbered word for every other id.

    Args:
        vocabulary: Number of ids.
        special: Special tokens and their ids, including ``<unk>``, ``<s>`` and ``</s>``.
        template: Template of an encoded text, with ``$A`` for the text.
        pad: The padding token.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_core(vocabulary, special, template),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        additional_special_tokens=[name for name in special if name not in ("<unk>", "<s>", "</s>", pad)],
    )


def _core(vocabulary: int, special: Mapping[str, int], template: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    taken = set(special.values())
    free = iter(i for i in range(vocabulary) if i not in taken)
    words = dict(special)
    words |= {byte: next(free) for byte in sorted(pre_tokenizers.ByteLevel.alphabet())}
    words |= {f"[{i}]": i for i in free}
    core = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    named = [(name, special[name]) for name in special if name in template]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return core
