"""Pieces of SentencePiece models are read without its library."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.models.files.sentencepiece_file import pieces
from mmbuild.models.files.small_files import SmallFileError
from support.examples import examples
from support.models.sentencepiece import sentencepiece_model


@given(st.lists(st.text(max_size=200), min_size=1, max_size=30))
def test_pieces_are_read_in_order(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    file.write_bytes(sentencepiece_model(texts))
    assert pieces(file) == texts


@settings(max_examples=examples(60))
@given(st.binary(max_size=60))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    file = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    file.write_bytes(b"\x07" + noise)  # a wire type that does not exist
    with pytest.raises(SmallFileError, match="is not a SentencePiece model"):
        pieces(file)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(sentencepiece_model(["<unk>", "a"])[:-5])
    with pytest.raises(SmallFileError, match="is not a SentencePiece model"):
        pieces(file)
