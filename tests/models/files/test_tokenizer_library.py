"""What the tokenizers library refuses is reported with a code, at validation and when an engine is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base.silence import quiet
from mmbuild.models.errors import EngineError
from mmbuild.models.families import family
from mmbuild.models.families.shared.hugging_face import saved_tokenizer, text_of, token_ids
from mmbuild.models.files.small_files import SmallFileError
from mmbuild.models.files.tokenizer_library import (
    TokenizersError,
    added_to_every_text,
    library_errors,
    read_with_library,
)
from mmbuild.models.validation.checked_model import Model, Source
from mmbuild.models.validation.consistency import findings
from mmbuild.models.validation.prompts import tokens_beyond

SHAPES = Path(__file__).parents[3] / "examples" / "models" / "llava-shapes"


def charsmap(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


def expression(content: dict[str, Any]) -> None:
    pattern = {"Regex": "("}
    content["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def template_without_token(content: dict[str, Any]) -> None:
    content["post_processor"]["special_tokens"] = {}


def no_pieces(content: dict[str, Any]) -> None:
    content["model"] = {"type": "Unigram", "vocab": [], "unk_id": 0, "byte_fallback": False}


def unknown_beyond(content: dict[str, Any]) -> None:
    content["model"] = {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 5, "byte_fallback": False}


def merge_of_no_token(content: dict[str, Any]) -> None:
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}


def negative_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["red"] = -1


def negative_added_id(content: dict[str, Any]) -> None:
    content["added_tokens"][0]["id"] = -1


# Each with a part of the reason that the message gives.
LIBRARY: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "charsmap": (charsmap, "Cannot parse precompiled_charsmap"),
    "expression": (expression, "unmatched parenthesis"),
    "template without token": (template_without_token, "no entry found for key"),
    "no pieces": (no_pieces, "EmptyVocabulary"),
    "unknown beyond": (unknown_beyond, "UnkIdNotInVocabulary"),
    "merge of no token": (merge_of_no_token, "Token `b` out of vocabulary"),
}
OURS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "negative id": (negative_id, 'its vocabulary gives "red" the id -1'),
    "negative added id": (negative_added_id, "its `added_tokens` have ids that are not whole numbers from 0"),
}
CASES = LIBRARY | OURS


def damaged(directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the model whose tokenizer.json is changed."""
    shutil.copytree(SHAPES, directory)
    content = json.loads((SHAPES / "tokenizer.json").read_text())
    change(content)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


def model_of(directory: Path) -> Model:
    config = json.loads((directory / "config.json").read_text())
    facts = family("llava").facts(config)
    return Model("llava", facts, {"model": config}, {"model": Source(directory, weights=False)})


@pytest.mark.parametrize("case", CASES)
def test_validation_refuses_a_damaged_tokenizer_once(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, reason = CASES[case]
    model = model_of(damaged(tmp_path / "m", change))
    (only,) = {(item.error.code, item.error.message) for item in findings(model)}
    assert only[0] == "MM731"
    assert "tokenizer.json`" in only[1]
    assert reason in only[1]
    # The length of a prompt is unknown, which is no second finding.
    assert tokens_beyond(model, model.expected(), "how many shapes ?" * 20, limit=1) is None
    assert capfd.readouterr() == ("", "")  # the backtrace of a panic


@pytest.mark.parametrize("case", CASES)
def test_loading_a_damaged_tokenizer_ends_with_a_code(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError) as raised:
        saved_tokenizer(damaged(tmp_path / "m", CASES[case][0]))
    assert raised.value.code == "MM516"
    assert "panicked" not in capfd.readouterr().err


def test_a_text_that_the_library_cannot_encode_ends_with_a_code(tmp_path: Path) -> None:
    def without_unknown(content: dict[str, Any]) -> None:
        content["model"]["unk_token"] = "absent"

    tokenizer = saved_tokenizer(damaged(tmp_path / "m", without_unknown))
    assert token_ids(tokenizer, "red") == tokenizer("red")["input_ids"]
    with pytest.raises(EngineError, match=r"tokenizer fails: .*\[UNK\]") as raised:
        token_ids(tokenizer, "zzzz")
    assert raised.value.code == "MM516"


def test_ids_of_the_post_processor_must_have_an_embedding(tmp_path: Path) -> None:
    def beyond(content: dict[str, Any]) -> None:
        content["post_processor"]["special_tokens"]["<s>"]["ids"] = [99_999]

    (found,) = findings(model_of(damaged(tmp_path / "m", beyond)))
    assert found.error.code == "MM736"
    assert "`post_processor` in `tokenizer.json` adds the token 99999 to every text" in found.error.message


def test_a_good_tokenizer_is_read_without_its_padding_and_truncation(tmp_path: Path) -> None:
    def cut(content: dict[str, Any]) -> None:
        content["truncation"] = {
            "direction": "Right",
            "max_length": 2,
            "strategy": "LongestFirst",
            "stride": 0,
        }

    tokenizer = read_with_library(damaged(tmp_path / "m", cut) / "tokenizer.json")
    assert len(tokenizer.encode("how many shapes ?").ids) == 5
    assert added_to_every_text(tokenizer) == (tokenizer.token_to_id("<s>"),)


def test_a_mended_file_is_read_again(tmp_path: Path) -> None:
    file = damaged(tmp_path / "m", charsmap) / "tokenizer.json"
    with pytest.raises(SmallFileError):
        read_with_library(file)
    file.write_bytes((SHAPES / "tokenizer.json").read_bytes())
    assert read_with_library(file).get_vocab_size() > 0


def test_no_file_is_no_finding(tmp_path: Path) -> None:
    assert read_with_library(tmp_path / "tokenizer.json") is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, KeyError])
def test_other_errors_pass_unchanged(error: type[BaseException]) -> None:
    with pytest.raises(error), library_errors():
        raise error


def test_bare_exceptions_are_converted() -> None:
    with pytest.raises(TokenizersError, match=r"^why$"), library_errors():
        raise Exception("why")


def test_a_decoder_that_panics_is_an_error_with_a_code(tmp_path) -> None:
    def strip_both_ends(content: dict[str, Any]) -> None:
        content["decoder"] = {"type": "Strip", "content": "?", "start": 1, "stop": 1}

    tokenizer = saved_tokenizer(damaged(tmp_path / "model", strip_both_ends))
    assert text_of(tokenizer, [tokenizer.convert_tokens_to_ids("red")]) == "red"
    with quiet(native=True), pytest.raises(EngineError, match="tokenizer fails") as error:
        text_of(tokenizer, [tokenizer.convert_tokens_to_ids("?")])
    assert error.value.code == "MM516"


@pytest.mark.parametrize(
    "decoder",
    [
        {"abc": {"content": "x"}},
        {"1.5": {"content": "x"}},
        {"": {"content": "x"}},
        {"9" * 5000: {"content": "x"}},
        {"5": {"content": 5}},
        {"5": {"content": ["a"]}},
        {"5": {"content": "a", "special": "yes"}},
        {"5": {"content": "<image>", "normalized": {"a": 1}}},
        [1],
    ],
    ids=lambda decoder: str(decoder)[:30],
)
def test_options_that_are_none_are_one_finding(tmp_path: Path, decoder: Any) -> None:
    """The library is given the options of tokens in tokenizer_config.json, whatever they are."""
    directory = damaged(tmp_path / "m", lambda _: None)
    config = directory / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "added_tokens_decoder": decoder}))
    assert read_with_library(directory / "tokenizer.json") is not None
    assert {item.error.code for item in findings(model_of(directory))} == {"MM731"}
