"""Reads saved tokenizers, and checks ids and the image token against config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import SmallFileError, display, read_json, read_small

_PIECE = 1 << 3 | 2  # field 1, length-delimited
_WIDTHS = {1: 8, 5: 4}  # bytes of fixed-width values, by wire type


def pieces(path: Path) -> list[str]:
    """Texts of the pieces in a SentencePiece model, in the order of their ids.

    Raises:
        SmallFileError: MM731, the file cannot be read or contains no pieces.
    """
    data = read_small(path)
    try:
        found = [_piece_text(piece) for piece in _messages(data)]
    except (IndexError, UnicodeDecodeError):
        found = []
    if not found:
        raise _damaged(path, "is not a SentencePiece model")
    return found


def _messages(data: bytes) -> list[bytes]:
    """The messages in field 1 of ``data``.

    Raises:
        IndexError: ``data`` is not a protocol buffer.
    """
    found, at = [], 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 2:
            size, at = _number(data, at)
            if at + size > len(data):
                raise IndexError(at)
            if key == _PIECE:
                found.append(data[at : at + size])
            at += size
        elif kind == 0:
            _, at = _number(data, at)
        else:
            if kind not in _WIDTHS:
                raise IndexError(at)
            at += _WIDTHS[kind]
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The varint at ``at``, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(at)


def _piece_text(piece: bytes) -> str:
    texts = _messages(piece)
    return texts[0].decode("utf-8") if texts else ""


def _damaged(path: Path, problem: str) -> SmallFileError:
    return SmallFileError(f"`{display(path)}` {problem}", code="MM731", hint="download the file again")


_MOST_IDS = 1 << 32  # ids are unsigned 32-bit integers in the tokenizers library
# Named special tokens, in the order in which transformers adds missing ones.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
IMAGE_TOKEN = "image_token"
_JSON, _CONFIG, _ADDED, _NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
_PIECES = ("tokenizer.model", "spiece.model")
FILES = (_JSON, _CONFIG, _ADDED, _NAMES, *_PIECES, "vocab.json")

# Prefixes of classes that keep the ids of a SentencePiece model.
_BY_POSITION = ("Llama", "T5")
# Default tokens of LLaMA's classes; other classes have none.
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the origin of its id.

    Attributes:
        text: The token.
        id: Its id.
        file: Name of the file that contains it.
    """

    text: str
    id: int
    file: str


@dataclass(frozen=True, slots=True)
class SavedTokenizer:
    """A saved tokenizer.

    Attributes:
        tokens: All tokens by text.
        whole: Texts of the tokens that are matched anywhere in a text and never split.
        special: Special tokens by name (``bos_token``), as passed to chat templates.
    """

    tokens: Mapping[str, Token]
    whole: frozenset[str]
    special: Mapping[str, str]

    @property
    def image_token(self) -> str | None:
        """The image token according to the tokenizer; None if it names none."""
        return self.special.get(IMAGE_TOKEN)

    def named(self, token_id: int) -> str | None:
        """The text of the token with this id."""
        return next((token.text for token in self.tokens.values() if token.id == token_id), None)


def read_tokenizer(directory: Path) -> SavedTokenizer | None:
    """The tokenizer in ``directory``; None if no vocabulary can be read without its library.

    Raises:
        SmallFileError: MM731, a file is damaged or has unexpected content.
        ModelFilesError: MM737, two files give a token different ids.
    """
    stats = tuple(_stat(directory / name) for name in FILES)
    return _read(directory, stats)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _read(directory: Path, stats: tuple[tuple[int, ...] | None, ...]) -> SavedTokenizer | None:  # noqa: ARG001 (key)
    vocabulary = _vocabulary(directory)
    if vocabulary is None:
        return None
    config = _optional(directory / _CONFIG)
    _require_no_methods(directory / _CONFIG, config)
    known, whole = vocabulary
    stated = list(_added(directory, config))
    _require_one_id(directory, known, [*stated, *_second_vocabulary(directory, config)])
    if "added_tokens_decoder" not in config:
        names = _optional(directory / _NAMES)
        config = {**config, **{key: _text(value) or value for key, value in names.items()}}
    tokens = dict(known)
    more = [token.text for token in stated] + list(_special_texts(config))
    file = _CONFIG if (directory / _CONFIG).is_file() else _ADDED
    new = [text for text in dict.fromkeys(more) if text not in known]
    first = max((token.id for token in known.values()), default=-1) + 1
    tokens |= {text: Token(text, number, file) for number, text in enumerate(new, start=first)}
    special = dict(_named(config))
    if _class(config).startswith(_BY_POSITION[0]):
        special = {name: text for name, text in _LLAMA.items() if name not in config} | special
    return SavedTokenizer(tokens, whole | frozenset(more), special)


# Methods of transformers' tokenizers; a setting of that name cannot be stored on one.
_METHODS = (
    "add_special_tokens",
    "add_tokens",
    "apply_chat_template",
    "decode",
    "encode",
    "get_vocab",
    "pad",
    "tokenize",
)


def _require_no_methods(file: Path, config: Mapping[str, Any]) -> None:
    for name in _METHODS:
        if name in config:
            raise SmallFileError(
                f"`{name}` in `{display(file)}` is {json.dumps(config[name])}: transformers' tokenizers have a "
                "method of that name, and cannot be loaded with such a setting",
                code="MM731",
                hint="remove the key"
                + ("; `add_bos_token` may be what it means" if "special" in name else ""),
            )


def _optional(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}


def _vocabulary(directory: Path) -> tuple[dict[str, Token], frozenset[str]] | None:
    """Tokens by text, and those that are never split, from the first file with a vocabulary."""
    file = directory / _JSON
    if file.is_file():
        return _of_json(file)
    for name in _PIECES:
        if (directory / name).is_file():
            texts = pieces(directory / name)
            return {text: Token(text, number, name) for number, text in enumerate(texts)}, frozenset()
    file = directory / "vocab.json"
    if file.is_file():
        return {
            text: Token(text, number, file.name) for text, number in _ids(file, read_json(file))
        }, frozenset()
    return None


def _second_vocabulary(directory: Path, config: Mapping[str, Any]) -> list[Token]:
    """The pieces next to a ``tokenizer.json``, for tokenizers whose ids are positions of pieces."""
    if not (directory / _JSON).is_file() or not _class(config).startswith(_BY_POSITION):
        return []
    found = [name for name in _PIECES if (directory / name).is_file()]
    return [
        Token(text, number, name) for name in found for number, text in enumerate(pieces(directory / name))
    ]


def _class(config: Mapping[str, Any]) -> str:
    # Old files without a class name are LLaMA's.
    return str(config.get("tokenizer_class") or _BY_POSITION[0])


def _of_json(file: Path) -> tuple[dict[str, Token], frozenset[str]]:
    content = read_json(file)
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids = _ids(file, vocabulary)
    elif isinstance(vocabulary, list):
        ids = [(_listed(file, item), number) for number, item in enumerate(vocabulary)]
    else:
        raise _no_tokenizer(file, "it has no `model` with a `vocab`")
    added = content.get("added_tokens") or []
    try:
        whole = [(str(item["content"]), int(item["id"])) for item in added]
    except (TypeError, KeyError, ValueError):
        raise _no_tokenizer(file, "its `added_tokens` are not a list of `id` and `content`") from None
    if not all(0 <= number < _MOST_IDS for _, number in whole):
        raise _no_tokenizer(file, "its `added_tokens` have ids that are not whole numbers from 0")
    tokens = {text: Token(text, number, file.name) for text, number in [*ids, *whole]}
    return tokens, frozenset(text for text, _ in whole)


def _ids(file: Path, vocabulary: Mapping[str, Any]) -> list[tuple[str, int]]:
    for text, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < _MOST_IDS:
            reason = f"its vocabulary gives {json.dumps(text)} the id {json.dumps(number)}"
            raise _no_tokenizer(file, f"{reason}, and ids are whole numbers from 0")
    return list(vocabulary.items())


def _listed(file: Path, item: object) -> str:
    if isinstance(item, list) and item and isinstance(item[0], str):
        return item[0]
    raise _no_tokenizer(file, "its vocabulary is not a list of tokens and scores")


def _no_tokenizer(file: Path, reason: str) -> SmallFileError:
    return SmallFileError(
        f"`{display(file)}` is not a tokenizer: {reason}", code="MM731", hint="download the file again"
    )


def _added(directory: Path, config: Mapping[str, Any]) -> Iterator[Token]:
    """Tokens with ids from files next to the vocabulary, in the order of their ids."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        file, entries = directory / _CONFIG, [(_text(value), number) for number, value in decoder.items()]
    else:
        file = directory / _ADDED
        entries = list(_optional(file).items())
    try:
        tokens = [Token(str(text), int(number), file.name) for text, number in entries if text is not None]
    except (TypeError, ValueError):
        raise _no_tokenizer(file, "its added tokens have ids that are not numbers") from None
    return iter(sorted(tokens, key=lambda token: token.id))


def _require_one_id(directory: Path, known: Mapping[str, Token], stated: list[Token]) -> None:
    for token in stated:
        other = known.get(token.text)
        if other is not None and other.id != token.id:
            raise ModelFilesError(
                f"in `{display(directory)}`, `{token.text}` is {other.id} in `{other.file}` and {token.id} in "
                f"`{token.file}`",
                code="MM737",
                hint="take all tokenizer files from the same version of the model",
            )


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Special tokens by name: the standard ones, then the model's, with priority for ``extra_special_tokens``."""
    for name in NAMED:
        text = _text(config.get(name))
        if text is not None:
            yield name, text
    extra = config.get("extra_special_tokens")
    own = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
    own |= extra if isinstance(extra, dict) else {}
    for name, value in own.items():
        text = _text(value)
        if name not in NAMED and text is not None:
            yield name, text


def _special_texts(config: Mapping[str, Any]) -> Iterator[str]:
    """Texts of special tokens: named ones first, then the others."""
    yield from (text for _, text in _named(config))
    more = config.get("extra_special_tokens", config.get("additional_special_tokens"))
    yield from filter(None, map(_text, more if isinstance(more, list) else ()))


def _text(value: object) -> str | None:
    """The text of a token, stored as a string or as ``content`` with options."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


DEFAULT_IMAGE_TOKEN = "<image>"


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


def _token_text(token: Token) -> str:
    return f"`{token.text}` with id {token.id} (`{token.file}`)"
