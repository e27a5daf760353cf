"""Reads the pieces of a SentencePiece model (``sentencepiece_model.proto``) without its library."""

from __future__ import annotations

from pathlib import Path

from mmbuild.models.files.small_files import SmallFileError, display, read_small

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
        raise SmallFileError(
            f"`{display(path)}` is not a SentencePiece model", code="MM731", hint="download the file again"
        )
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
