"""Deadlines, retries and giving up, without real waiting."""

import threading
import time

import pytest

from mmbuild.team.remote_cache.retrying_client import ATTEMPTS, RetryingClient, UnreachableError, with_timeout


@pytest.fixture
def notices():
    return []


@pytest.fixture
def calls(notices):
    return RetryingClient("there", 0.2, notices.append, pause=0.0)


def failing(times, error=ConnectionResetError):
    """A request that fails so often before it answers, and how often it was made."""
    made = []

    def request():
        made.append(1)
        if len(made) <= times:
            raise error("broken")
        return "answer"

    return request, made


@pytest.mark.parametrize("times", range(ATTEMPTS))
def test_a_request_is_made_again_until_it_answers(calls, times):
    request, made = failing(times)
    assert calls.do(request) == "answer"
    assert (len(made), calls.down) == (times + 1, "")


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_not_there_and_there_already_are_answers(calls, error):
    request, made = failing(1, error)
    with pytest.raises(error):
        calls.do(request)
    assert len(made) == 1


def test_a_place_that_never_answered_is_left_alone_at_once(calls, notices):
    request, made = failing(99)
    for _ in range(3):
        with pytest.raises(UnreachableError):
            calls.do(request)
    assert len(made) == ATTEMPTS
    assert [notice.code for notice in notices] == ["MM821"]


def test_a_place_that_answered_may_fail_three_times_in_a_row(calls):
    calls.do(lambda: None)
    for number in range(3):
        assert not calls.down, number
        with pytest.raises(UnreachableError):
            calls.do(failing(99)[0])
    assert "ConnectionResetError" in calls.down


def test_a_denied_request_is_not_retried(calls):
    request, made = failing(99, PermissionError)
    with pytest.raises(UnreachableError):
        calls.do(request)
    assert len(made) == 1


def test_a_request_that_hangs_is_left_to_itself():
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        with_timeout(threading.Event().wait, 0.05)
    assert time.monotonic() - begin < 2


def test_all_questions_together_have_one_deadline(calls, notices):
    def ask(key):
        if key % 2:
            threading.Event().wait()
        return key * 10

    found = calls.each(range(8), ask)
    assert found == {0: 0, 2: 20, 4: 40, 6: 60}
    assert [notice.code for notice in notices] == ["MM821"]
