"""A tokenizer of single letters, for texts that tests can write by hand."""

from __future__ import annotations

from typing import Any


def tokenizer(vocabulary: int) -> Any:
    """Ids 4, 5, 6, ... are the letters a, b, c, ...; those below are special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
    words |= {chr(ord("a") + number): number + 4 for number in range(vocabulary - 4)}
    core = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
