"""SentencePiece models, written by hand: each piece is field 1, with its text, score and kind inside."""

from __future__ import annotations


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def sentencepiece_model(texts: list[str]) -> bytes:
    """Pieces, then a trainer's section as real files have it."""
    made = [_field(1, _field(1, text.encode()) + b"\x15\x00\x00\x80\xbf" + b"\x18\x01") for text in texts]
    return b"".join(made) + _field(2, b"\x08\x01" * 70) + b"\x50\x96\x01"
