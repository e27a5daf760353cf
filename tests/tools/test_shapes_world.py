import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shapes_world as world

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.booleans())
def test_held_out_combinations_appear_only_on_request(seed: int, held_out: bool) -> None:
    scene = world.draw_scene(np.random.default_rng(seed), held_out=held_out)
    assert scene.held_out == held_out
    assert 1 <= len(set(scene.cells)) == len(scene.cells) <= 5


@given(seeds)
def test_every_word_of_questions_and_answers_is_in_the_vocabulary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = set(world.words())
    scene = world.draw_scene(rng, held_out=False)
    requested = list(world.questions(scene, rng))
    assert {q.kind for q in requested} == set(world.QUESTIONS) - (
        {"where"} if len(scene.cells) > 1 else set()
    )
    assert all(set(f"{q.text} {q.answer}".split()) <= known for q in requested)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another() -> None:
    def picture(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        return world.draw_picture(world.draw_scene(rng, held_out=False), rng).tobytes()

    assert picture(1) == picture(1) != picture(2)


@pytest.mark.parametrize("cell", range(9))
def test_an_object_is_drawn_in_its_cell(cell: int) -> None:
    rng = np.random.default_rng(cell)
    pixels = np.asarray(world.draw_picture(world.Scene(1, 0, (cell,)), rng)).astype(int)
    rows, columns = np.nonzero((pixels != pixels[0, 0] if cell else pixels != pixels[-1, -1]).any(-1))
    assert int(columns.mean() * 3 / world.CANVAS) == cell % 3
    assert int(rows.mean() * 3 / world.CANVAS) == cell // 3


def test_a_tenth_of_the_combinations_is_held_out_and_every_shape_and_colour_is_seen() -> None:
    scenes = [
        world.Scene(shape, colour, cells)
        for shape in range(len(world.SHAPES))
        for colour in range(len(world.COLOURS))
        for cells in [*((c,) for c in range(9)), *(tuple(range(n)) for n in range(2, 6))]
    ]
    share = sum(scene.held_out for scene in scenes) / len(scenes)
    assert 0.08 < share < 0.15
    assert len({(s.shape, s.colour) for s in scenes if not s.held_out}) == 35
