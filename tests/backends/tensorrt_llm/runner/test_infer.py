"""Parses answers in the output of upstream's runner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.runner.infer import answers

SOME_TEXT = st.text(min_size=1).filter(lambda text: text.strip())


@given(texts=st.lists(SOME_TEXT, min_size=1, max_size=4), colon=st.sampled_from(["", ":"]))
def test_the_best_beam_is_returned_whatever_its_text(texts: list[str], colon: str) -> None:
    """The runner prints the list of beams as Python does: line ends, quotes and brackets are escaped."""
    lines = ("[TensorRT-LLM] loaded", "[Q] why", f"[A]{colon} {texts}", "Generated 3 tokens")
    assert answers(lines) == (texts[0].strip(),)


def test_each_prompt_of_a_batch_has_its_answer() -> None:
    assert answers(("[A]: ['one']", "[A]: ['two', 'second beam']")) == ("one", "two")


def test_lines_that_only_resemble_an_answer_are_ignored() -> None:
    for line in ("[A]", "[A]: one", "[A]: []", "[A]: [open(", "[A]: [1, 2]", "  [A]: ['indented']"):
        assert answers((line,)) == ()
