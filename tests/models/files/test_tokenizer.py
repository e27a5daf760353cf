"""Ids and special tokens are read from files as transformers' tokenizers have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.families.shared import dummy_tokenizer
from mmbuild.models.files.small_files import SmallFileError
from mmbuild.models.files.vocabulary import read_tokenizer
from support.examples import examples
from support.models.sentencepiece import sentencepiece_model

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 300}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    dummy_tokenizer.tokenizer(320, SPECIAL).save_pretrained(directory)
    return directory


# Tokens that the vocabulary has, and tokens that it lacks.
TEXTS = st.sampled_from(["<s>", "</s>", "<image>", "[280]", "<new>", "<more>", "<pad>"])
TOKENS = st.one_of(TEXTS, TEXTS.map(lambda text: {"__type": "AddedToken", "content": text, "special": True}))
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "bos_token": st.one_of(st.none(), TOKENS),
        "pad_token": TOKENS,
        "mask_token": TOKENS,
        "image_token": TEXTS,
        "extra_special_tokens": st.one_of(
            st.lists(TEXTS, max_size=2, unique=True), st.fixed_dictionaries({"image_token": TEXTS})
        ),
    },
)
ADDED = st.lists(st.sampled_from(["<new>", "<more>", "<other>"]), unique=True, max_size=3)


@settings(max_examples=examples(120), deadline=None)
@given(config=CONFIG, added=st.one_of(st.none(), ADDED), listed=st.one_of(st.none(), ADDED))
def test_ids_are_those_of_transformers(
    saved: Path,
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, Any],
    added: list[str] | None,
    listed: list[str] | None,
) -> None:
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    content: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    if listed is not None:
        content["added_tokens_decoder"] = {
            str(320 + n): {"content": text, "special": True} for n, text in enumerate(listed)
        }
    (directory / "tokenizer_config.json").write_text(json.dumps(content))
    if added is not None:
        (directory / "added_tokens.json").write_text(
            json.dumps({text: 320 + n for n, text in enumerate(added)})
        )
    theirs = AutoTokenizer.from_pretrained(directory)
    ours = read_tokenizer(directory)
    assert ours is not None
    assert {token.text: token.id for token in ours.tokens.values()} == theirs.get_vocab()
    assert ours.special == theirs.special_tokens_map
    assert ours.image_token == getattr(theirs, "image_token", None)
    for text in ours.whole:
        assert theirs.encode(text, add_special_tokens=False) == [ours.tokens[text].id]


def test_the_older_files_are_read_where_no_token_is_listed(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    names = {
        "bos_token": "[280]",
        "image_token": "<image>",
        "pad_token": {"content": "<pad>", "lstrip": False},
    }
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    assert ours is not None
    assert ours.special == theirs.special_tokens_map
    assert ours.special == {"bos_token": "[280]", "pad_token": "<pad>", "image_token": "<image>"}
    assert ours.tokens["<pad>"].id == theirs.convert_tokens_to_ids("<pad>") == 320
    assert ours.image_token == theirs.image_token == "<image>"


def test_a_directory_without_a_vocabulary_has_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert read_tokenizer(tmp_path) is None


def test_a_changed_file_is_read_again(saved: Path, tmp_path: Path) -> None:
    content = json.loads((saved / "tokenizer.json").read_text())
    for number in (320, 321):
        content["added_tokens"].append({"id": number, "content": f"<{number}>"})
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        found = read_tokenizer(tmp_path)
        assert found is not None
        assert f"<{number}>" in found.tokens


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": None},
        {"model": {"vocab": 3}},
        {"model": {"vocab": {"a": "b"}}},
        {"model": {"vocab": [["a", 0.0], 7]}},
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b"}]},
        {"model": {"vocab": {"a": 0}}, "added_tokens": 3},
    ],
)
def test_a_tokenizer_of_another_shape_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(SmallFileError, match="is not a tokenizer") as caught:
        read_tokenizer(tmp_path)
    assert caught.value.code == "MM731"


def test_a_list_of_pieces_is_a_vocabulary_too(tmp_path: Path) -> None:
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["a", -1.0]]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": vocabulary}}))
    found = read_tokenizer(tmp_path)
    assert found is not None
    assert {token.text: token.id for token in found.tokens.values()} == {"<pad>": 0, "</s>": 1, "a": 2}


def test_a_sentencepiece_model_is_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(["<unk>", "<s>", "</s>", "a"]))
    (tmp_path / "added_tokens.json").write_text('{"<image>": 4}')
    found = read_tokenizer(tmp_path)
    assert found is not None
    assert {token.text: token.id for token in found.tokens.values()} == {
        "<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "<image>": 4,
    }  # fmt: skip
    assert found.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "LlamaTokenizerFast", "T5Tokenizer", None])
def test_two_vocabularies_that_disagree_are_refused(tmp_path: Path, kind: str | None) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(["<unk>", "b", "a", "only here"]))
    content = {"model": {"vocab": {"<unk>": 0, "a": 1, "b": 2}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    if kind is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(
        ModelFilesError, match=r"is 2 in `tokenizer.json` and 1 in `tokenizer.model`"
    ) as caught:
        read_tokenizer(tmp_path)
    assert caught.value.code == "MM737"


def test_tokenizers_that_shift_their_pieces_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(["<unk>", "a"]))
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"<pad>": 0, "<unk>": 1, "a": 2}}})
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    assert read_tokenizer(tmp_path) is not None
