import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pages_world
from pages_world import Line, Page, Word
from support.examples import examples

seeds = st.integers(0, 2**32 - 1)


def words(page: Page) -> list[str]:
    body = [word.text.strip(pages_world.MARKS) for line in page.lines for word in line.words]
    return [*page.title.split(), *body]


@given(seeds, st.booleans())
@settings(max_examples=examples(40))
def test_held_out_words_appear_only_on_request_and_then_alone(seed: int, held_out: bool) -> None:
    page = pages_world.draw_page(np.random.default_rng(seed), held_out=held_out)
    assert {pages_world.held_out_word(word) for word in words(page)} == {held_out}


@given(seeds)
@settings(max_examples=examples(40))
def test_an_ordinary_page_has_several_lines_and_known_characters(seed: int) -> None:
    page = pages_world.draw_page(np.random.default_rng(seed), held_out=False)
    text = pages_world.markup(page)
    assert pages_world.SHORTEST <= len(text) <= pages_world.LONGEST
    assert 3 <= len(page.lines) <= 5
    assert set(text) <= set(pages_world.characters())


def test_markup() -> None:
    page = Page("Vole", (Line((Word("ab"), Word("cd.", bold=True))), Line((Word("17"),), item=True)))
    assert pages_world.markup(page) == "# Vole\n\nab **cd.**\n* 17"
    assert pages_world.markup(Page("", page.lines)) == "ab **cd.**\n* 17"


@given(seeds)
@settings(max_examples=15)
def test_print_stays_on_the_page(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.asarray(pages_world.draw_picture(pages_world.draw_page(rng, held_out=False), rng))[..., 0]
    paper = pixels[0, 0]
    assert (pixels[[0, -1]] == paper).all()
    assert (pixels[:, [0, -1]] == paper).all()
    assert (pixels != paper).any()


@pytest.mark.parametrize("change", ["title", "bold", "item"])
def test_different_markup_is_printed_differently(change: str) -> None:
    page = Page("Vole", (Line((Word("ab", bold=change == "bold"),), item=change == "item"),))
    plain = Page("" if change == "title" else "Vole", (Line((Word("ab"),)),))
    pictures = [pages_world.draw_picture(p, np.random.default_rng(3)).tobytes() for p in (page, plain)]
    assert pictures[0] != pictures[1]
