"""Word-level tokenizers for the shape worlds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def word_tokenizer(
    vocabulary: Iterable[str], template: str, names: Mapping[str, str], **options: object
) -> PreTrainedTokenizerFast:
    """Lower case, words and marks.

    Args:
        vocabulary: Special tokens first; the place of each is its id.
        template: Of a text, as ``<s> $A``.
        names: ``pad_token`` and its kin.
        options: Of PreTrainedTokenizerFast.
    """
    number = {word: i for i, word in enumerate(vocabulary)}
    core = Tokenizer(models.WordLevel(number, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, number[word]) for word in template.split() if word in number]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, **options)
