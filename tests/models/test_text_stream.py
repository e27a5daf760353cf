"""Pieces of text add up to the answer, whatever tokens and stop strings are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mmbuild.models.families.shared.hugging_face import text_of, unsettled_characters
from mmbuild.models.text_stream import TextStream


def of_characters(ids) -> str:
    return "".join(map(chr, ids))


def of_bytes(ids) -> str:
    return bytes(ids).decode("utf-8", "replace")


def pieces_of(tokens, decode, stop=(), unsettled=0) -> tuple[list[str], TextStream]:
    stream, pieces = TextStream(decode, stop, unsettled), []
    for token in tokens:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream


def cut(text: str, stops: list[str]) -> str:
    """``text`` up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        places = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if places:
            return text[: min(places)]
    return text


@given(st.text("ab \n", max_size=14), st.lists(st.text("ab ", min_size=1, max_size=3), max_size=2))
def test_pieces_are_the_text_up_to_the_first_stop_string(text, stops) -> None:
    pieces, stream = pieces_of(map(ord, text), of_characters, stops)
    assert "".join(pieces) == cut(text, stops).strip() == stream.text
    assert stream.stopped == (cut(text, stops) != text)


@given(st.text(max_size=10))
def test_characters_of_several_tokens_come_whole(text) -> None:
    pieces, _ = pieces_of(text.encode("utf-8", "ignore"), of_bytes)
    wanted = text.encode("utf-8", "ignore").decode()
    assert "".join(pieces) == wanted.strip()
    if "\N{REPLACEMENT CHARACTER}" not in wanted:
        assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_what_is_not_complete_at_the_end_is_shown_as_it_is() -> None:
    pieces, _ = pieces_of("ü".encode()[:1], of_bytes)
    assert pieces == ["", "\N{REPLACEMENT CHARACTER}"]


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(of_characters, ["END"])
    assert [stream.add(ord(char)) for char in "aEbEND"] == ["a", "", "Eb", "", "", ""]
    assert (stream.text, stream.stopped) == ("aEb", True)


def test_nothing_is_not_decoded() -> None:
    def decode(ids) -> str:
        assert ids, "some decoders fail"
        return of_characters(ids)

    pieces, _ = pieces_of(map(ord, "ab"), decode)
    assert pieces == ["a", "b", ""]
    assert TextStream(decode).finish() == ""


class Cleaning:
    """A tokenizer of characters whose texts transformers cleans up."""

    clean_up_tokenization_spaces = True

    def decode(self, ids, skip_special_tokens) -> str:
        assert skip_special_tokens
        return PreTrainedTokenizerBase.clean_up_tokenization(self, of_characters(ids))


PARTS = st.sampled_from([" ", "a", "'", ".", "?", ",", "n't", "'s", "'ve", "'re", "'m", " ' ", " n", "\n"])


@given(
    st.lists(PARTS, max_size=30).map("".join), st.lists(st.text("a.' ", min_size=1, max_size=3), max_size=2)
)
def test_pieces_of_a_text_that_is_cleaned_up_are_the_whole_text(text, stops) -> None:
    tokenizer = Cleaning()
    whole = tokenizer.decode(list(map(ord, text)), skip_special_tokens=True)

    def decode(ids) -> str:
        return text_of(tokenizer, ids)

    pieces, stream = pieces_of(map(ord, text), decode, unsettled=unsettled_characters(tokenizer))
    assert "".join(pieces) == whole.strip() == stream.text
    pieces, stream = pieces_of(map(ord, text), decode, stops, unsettled_characters(tokenizer))
    assert "".join(pieces) == stream.text


def of_byte_tokens(ids) -> str:
    """As the decoder ``ByteFallback``: bytes that are no text become one replacement character each."""
    try:
        return bytes(ids).decode()
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" * len(ids)


@given(st.binary(max_size=6))
def test_the_text_of_an_answer_is_that_of_all_its_tokens(tokens) -> None:
    _, stream = pieces_of(tokens, of_byte_tokens)
    assert stream.text == of_byte_tokens(tokens).strip()
