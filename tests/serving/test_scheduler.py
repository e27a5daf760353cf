"""Slots are given in the order of arrival, and nobody who has started waits for more than one piece of a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.serving.scheduler import QueueFullError, Reading, Scheduler, Turn, groups


def run(scheduler: Scheduler, turn: Turn) -> None:
    """Do what a turn says."""
    for reading in turn.reading:
        scheduler.read(reading)


def test_a_prompt_is_read_whole_while_nobody_waits_for_it() -> None:
    scheduler = Scheduler(slots=2, queue=4)
    scheduler.add(7, length=100)
    scheduler.add(8, length=1)
    turn = scheduler.turn(tokens=10)
    assert turn is not None
    [reading] = turn.reading
    assert (reading.key, reading.slot, reading.count, reading.last) == (7, 0, 100, True)
    assert turn.decoding == ()


def test_others_get_a_token_between_pieces_of_a_prompt() -> None:
    scheduler = Scheduler(slots=2, queue=4)
    scheduler.add(1, length=3)
    run(scheduler, scheduler.turn(None))
    scheduler.add(2, length=25)
    turns = []
    for _ in range(3):
        turns.append(scheduler.turn(tokens=10))
        run(scheduler, turns[-1])
    pieces = [reading for turn in turns for reading in turn.reading]
    assert [(piece.first, piece.count, piece.last) for piece in pieces] == [
        (0, 10, False),
        (10, 10, False),
        (20, 5, True),
    ]
    assert all(turn.decoding == ((1, 0),) for turn in turns)
    assert scheduler.turn(10).decoding == ((1, 0), (2, 1))


def test_short_prompts_are_read_together() -> None:
    scheduler = Scheduler(slots=4, queue=4)
    scheduler.add(0, length=1)
    run(scheduler, scheduler.turn(None))
    for key, length in ((1, 6), (2, 3), (3, 50)):
        scheduler.add(key, length)
    turn = scheduler.turn(tokens=10)
    assert [(piece.key, piece.count, piece.last) for piece in turn.reading] == [
        (1, 6, True),
        (2, 3, True),
        (3, 1, False),
    ]
    run(scheduler, turn)
    scheduler.add(4, 1)
    assert [piece.key for piece in scheduler.turn(tokens=10).reading] == [3], "who has begun goes on first"


def test_a_prompt_that_a_turn_has_room_for_is_not_cut() -> None:
    scheduler = Scheduler(slots=4, queue=4)
    scheduler.add(0, length=1)
    run(scheduler, scheduler.turn(None))
    for key, length in ((1, 6), (2, 10), (3, 3)):
        scheduler.add(key, length)
    turns = [scheduler.turn(tokens=10)]
    run(scheduler, turns[0])
    turns.append(scheduler.turn(tokens=10))
    pieces = [[(piece.key, piece.count, piece.last) for piece in turn.reading] for turn in turns]
    assert pieces == [[(1, 6, True)], [(2, 10, True)]]


def test_a_request_with_a_free_slot_does_not_count_as_waiting() -> None:
    scheduler = Scheduler(slots=2, queue=1)
    for key in range(3):
        scheduler.add(key, 5)
    with pytest.raises(QueueFullError) as refused:
        scheduler.add(3, 5)
    assert refused.value.code == "MM870"


def test_the_slot_of_a_removed_request_is_free_in_any_state() -> None:
    scheduler = Scheduler(slots=1, queue=9)
    for key in range(4):
        scheduler.add(key, 20)
    scheduler.remove(3)  # waiting
    run(scheduler, scheduler.turn(None))
    scheduler.remove(0)  # decoding
    turn = scheduler.turn(None)
    assert turn.reading[0].key == 1
    scheduler.remove(1)  # being read
    scheduler.read(turn.reading[0])  # the engine comes back from it
    assert scheduler.turn(None).reading[0].key == 2
    scheduler.remove(99)
    assert (scheduler.running, scheduler.waiting) == (1, 0)


def test_nothing_to_do_is_no_turn() -> None:
    assert Scheduler(slots=3, queue=3).turn(None) is None


# Turns until the next request comes, length of its prompt, tokens of its answer.
Arrivals = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60), st.integers(1, 12)), max_size=25)


@given(Arrivals, st.integers(1, 5), st.integers(1, 20))
def test_all_are_answered_in_order_with_a_token_every_turn(arrivals, slots, most) -> None:
    """A turn is one unit of time."""
    scheduler, now = Scheduler(slots, queue=100), 0
    coming = []
    for key, (gap, length, tokens) in enumerate(arrivals):
        now += gap
        coming.append((now, key, length, tokens))
    left, started, decoding = {}, [], set()
    for now in range(5000):
        while coming and coming[0][0] <= now:
            _, key, length, tokens = coming.pop(0)
            scheduler.add(key, length)
            left[key] = tokens
        turn = scheduler.turn(most)
        if turn is None:
            assert not left
            if not coming:
                break
            continue
        # Every request that has been read gets a token in every turn, in its own slot.
        assert {key for key, _ in turn.decoding} == decoding
        taken = [slot for _, slot in turn.decoding] + [piece.slot for piece in turn.reading]
        assert len(set(taken)) == len(taken) <= slots
        assert all(0 <= slot < slots for slot in taken)
        assert sum(piece.count for piece in turn.reading) <= most or not turn.decoding
        for piece in turn.reading:
            if piece.first == 0:
                started.append(piece.key)
            scheduler.read(piece)
            if piece.last:
                decoding.add(piece.key)
        for key, _ in turn.decoding:
            left[key] -= 1
            if not left[key]:
                del left[key]
                decoding.remove(key)
                scheduler.remove(key)
    assert started == list(range(len(arrivals)))
    assert (scheduler.running, scheduler.waiting) == (0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=12), st.integers(1, 4)
)
def test_whole_prompts_are_grouped_and_pieces_are_by_themselves(pieces, most):
    readings = [Reading(key, key, first, count, last) for key, (first, count, last) in enumerate(pieces)]
    found = list(groups(readings, most))
    assert [one for group in found for one in group] == readings
    assert all(1 <= len(group) <= most for group in found)
    assert all(one.last and not one.first for group in found if len(group) > 1 for one in group)
    assert all(
        max(one.count for one in group) * len(group) <= 1.25 * sum(one.count for one in group)
        for group in found
    )
