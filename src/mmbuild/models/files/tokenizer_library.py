"""Loads ``tokenizer.json`` with the ``tokenizers`` library, and makes its failures ordinary errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, require_regular
from mmbuild.base.silence import quiet
from mmbuild.models.files.small_files import SmallFileError, display, read_json

JSON, CONFIG = "tokenizer.json", "tokenizer_config.json"
_PANIC = "PanicException"  # of pyo3, which offers no class to import


class TokenizersError(ValueError):
    """The library refuses a file or a text."""


@contextmanager
def library_errors() -> Iterator[None]:
    """Convert what the library raises in the block: bare ``Exception``, and panics, which are ``BaseException``.

    Raises:
        TokenizersError: The library refuses its input.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != _PANIC:
            raise
        raise TokenizersError(str(error)) from error


def read_with_library(file: Path) -> Any:
    """The ``tokenizers.Tokenizer`` in ``file``; None if there is no such file, or the library is not installed.

    Saved padding and truncation are removed: engines do not apply them (:mod:`mmbuild.models.files.call_settings`).
    Options of tokens in ``tokenizer_config.json`` replace those in ``file``, as in transformers.

    Raises:
        SmallFileError: MM731, the library cannot load the file, or cannot encode any text with it, or
            ``tokenizer_config.json`` is damaged.
    """
    try:
        status = require_regular(file)
    except (OSError, FileRefusedError):
        return None
    config = file.parent / CONFIG
    decoder = read_json(config).get("added_tokens_decoder") if config.is_file() else None
    found = _read(file, (status.st_ino, status.st_size, status.st_mtime_ns), _options(decoder))
    if isinstance(found, TokenizersError):
        raise _refused(file, found)
    return found


_Options = tuple[tuple[str, Any], ...]
_NUMBER = re.compile(r"[0-9]{1,18}")
_KNOWN = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def _options(decoder: Any) -> tuple[_Options, ...]:
    """Options of each token in ``added_tokens_decoder``, in the order of their ids; entries in another form are left
    out here, and refused by :mod:`mmbuild.models.files.vocabulary`."""
    entries = decoder.items() if isinstance(decoder, Mapping) else ()
    tokens = {
        int(number): tuple((key, token[key]) for key in _KNOWN if key in token)
        for number, token in entries
        if _NUMBER.fullmatch(number) and _is_token(token)
    }
    return tuple(options for _, options in sorted(tokens.items()))


def _is_token(token: Any) -> bool:
    if not isinstance(token, Mapping) or not isinstance(token.get("content"), str):
        return False
    return all(isinstance(token.get(key, False), bool) for key in _KNOWN if key != "content")


def _refused(file: Path, error: TokenizersError) -> SmallFileError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return SmallFileError(
        f"`{display(file)}` is refused by the tokenizers library: {reason[:200]}",
        code="MM731",
        hint="download the file again; if it is complete, it may need a newer release of the tokenizers package",
    )


# Failures are kept too: a damaged file may take as long to load as a good one.
@lru_cache(maxsize=2)
def _read(file: Path, stat: tuple[int, ...], options: tuple[_Options, ...]) -> Any:  # noqa: ARG001 (key)
    try:
        from tokenizers import AddedToken, Tokenizer
    except ImportError:
        return None
    try:
        # A panic writes a backtrace to standard error.
        with quiet(native=True), library_errors():
            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            known = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
            stated = [AddedToken(**dict(token)) for token in options]
            tokenizer.add_tokens([token for token in stated if repr(token) not in known])
            tokenizer.encode("")  # the post-processor is first used here
    except TokenizersError as error:
        return error.with_traceback(None)
    return tokenizer


def added_to_every_text(tokenizer: Any) -> tuple[int, ...]:
    """Ids that the post-processor adds to every text."""
    return tuple(tokenizer.encode("").ids)
