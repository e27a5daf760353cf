"""Checks the ids of a tokenizer against config.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.tokenizer_library import TokenizersError, library_errors
from mmbuild.models.files.vocabulary import SavedTokenizer, Token


def require_embeddings(tokenizer: SavedTokenizer, vocab_size: int, key: str) -> None:
    """Check that all tokens have an embedding; an engine would interpret other ids as visual features.

    Args:
        tokenizer: The saved tokenizer.
        vocab_size: Rows of the embedding table, which is also the first id of visual features.
        key: The key of that number in config.json.

    Raises:
        ModelFilesError: MM736.
    """
    beyond = sorted((t for t in tokenizer.tokens.values() if t.id >= vocab_size), key=lambda t: t.id)
    if beyond:
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        raise ModelFilesError(
            f"`{key}` in config.json is {vocab_size}, and the tokenizer has {_token_text(beyond[0])}{more}: "
            "the model has no embedding for such an id",
            code="MM736",
            hint="call `model.resize_token_embeddings(len(tokenizer))` in transformers and save the model again, "
            "or remove the tokens that the model does not know",
        )


def require_known_ids(ids: Sequence[int], vocab_size: int, key: str) -> None:
    """Check the ids that the tokenizer's post-processor adds to every text.

    Args:
        ids: The ids.
        vocab_size: Rows of the embedding table.
        key: The key of that number in config.json.

    Raises:
        ModelFilesError: MM736.
    """
    if max(ids, default=0) >= vocab_size:
        raise ModelFilesError(
            f"`{key}` in config.json is {vocab_size}, and `post_processor` in `tokenizer.json` adds the token "
            f"{max(ids)} to every text: the model has no embedding for such an id",
            code="MM736",
            hint="take tokenizer.json and config.json from the same version of the model",
        )


def require_image_token(
    tokenizer: SavedTokenizer, token: str, stated: int, key: str, *, added_by_processor: bool
) -> None:
    """Check that the image token of config.json is the one that the processor writes to prompts.

    Args:
        tokenizer: The saved tokenizer.
        token: The token that the processor writes for an image.
        stated: The id in config.json.
        key: Its key in config.json.
        added_by_processor: Whether the processor adds the token to a tokenizer without it.

    Raises:
        ModelFilesError: MM737, the ids differ, or the tokenizer does not know the token.
    """
    found = tokenizer.tokens.get(token) if token in tokenizer.whole else None
    if found is None and added_by_processor:
        return
    if found is None:
        raise ModelFilesError(
            f"the processor writes `{token}` for a picture, and the tokenizer has no such token",
            code="MM737",
            hint="take tokenizer and processor files from the same version of the model",
        )
    if found.id != stated:
        name = tokenizer.named(stated)
        called = f", the tokenizer's `{name}`" if name is not None else ""
        raise ModelFilesError(
            f"`{key}` in config.json is {stated}{called}, and the processor's image token is {_token_text(found)}",
            code="MM737",
            hint="take config.json and tokenizer from the same version of the model",
        )


def require_stated_ids(tokenizer: SavedTokenizer, loaded: Any) -> None:
    """Check that tokens have the ids that their files state.

    The tokenizers library ignores the id of a token that is not in the vocabulary: such tokens get the ids after it.

    Args:
        tokenizer: The saved tokenizer.
        loaded: The same as ``tokenizers.Tokenizer``.

    Raises:
        ModelFilesError: MM737.
    """
    for token in tokenizer.tokens.values():
        given = loaded.token_to_id(token.text)
        if given is not None and given != token.id:
            raise ModelFilesError(
                f"{_token_text(token)} gets the id {given} from the tokenizers library, which numbers tokens outside "
                "the vocabulary consecutively",
                code="MM737",
                hint="save the tokenizer with transformers, or give `added_tokens` the ids after the vocabulary",
            )


def require_repeatable(loaded: Any, token: str) -> None:
    """Check that the tokenizer recognizes image tokens next to each other, one for each visual feature of an image.

    Args:
        loaded: The ``tokenizers.Tokenizer``.
        token: The image token.

    Raises:
        ModelFilesError: MM737.
    """
    number = loaded.token_to_id(token)
    try:
        with library_errors():
            ids = loaded.encode(token * 3, add_special_tokens=False).ids
    except TokenizersError:
        ids = []
    if ids != [number] * 3:
        raise ModelFilesError(
            f"the tokenizer does not recognize `{token * 3}` as three image tokens: its options (`normalized`, "
            "`single_word`), or the normalizer of tokenizer.json, do not allow it",
            code="MM737",
            hint=f"set `normalized` and `single_word` of `{token}` to false in the tokenizer's files",
        )


def _token_text(token: Token) -> str:
    return f"`{token.text}` with id {token.id} (`{token.file}`)"
