import pytest

import demo_worlds


@pytest.mark.parametrize("family", demo_worlds.MODELS)
def test_the_same_seed_asks_the_same_and_another_seed_something_else(family: str) -> None:
    def drawn(seed: int) -> list[tuple[list[bytes], str | None, str, str | None]]:
        requested = demo_worlds.ask(family, seed, 6, held_out=True)
        return [([p.tobytes() for p in a.pictures], a.question, a.answer, a.prompt) for a in requested]

    assert drawn(11) == drawn(11)
    assert drawn(11) != drawn(12)


@pytest.mark.parametrize("family", demo_worlds.PROMPTS)
def test_a_prompt_holds_the_question_and_a_mark_for_each_picture(family: str) -> None:
    for requested in demo_worlds.ask(family, 3, 6, held_out=False):
        assert requested.question in requested.prompt
        marks = 0 if family.startswith("blip2") else len(requested.pictures)
        assert requested.prompt.count("<image>") == marks


def test_vila_is_asked_about_one_picture_and_two_in_turn_and_nougat_nothing() -> None:
    assert [len(a.pictures) for a in demo_worlds.ask("vila", 3, 4, held_out=True)] == [1, 2, 1, 2]
    page = demo_worlds.ask("nougat", 3, 1, held_out=True)[0]
    assert (page.question, page.prompt) == (None, None)
    assert page.answer.count("\n") >= 2
