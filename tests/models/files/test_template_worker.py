"""Chat templates are rendered within bounds for every question, whatever they know of the one before."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.models.files.template_worker import RenderError, Worker

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made._stop()


def test_messages_and_special_tokens_are_rendered(worker):
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert worker.render(template, MESSAGES, {"bos_token": "<s>"}) == "<s>user: hi\n"


@given(st.text(max_size=200))
@settings(max_examples=50)
def test_any_text_comes_back_as_it_is(worker, text):
    assert worker.render("{{ messages[0].content }}", [{"role": "user", "content": text}], {}) == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "more than 1 second",
        ),
        ("{{ 'x' * 3000000000 }}", "more than 256 MB of memory"),
        ("{{ 'x' * 30000000 }}", "more than 16 MB"),
        ("{{ raise_exception('roles must alternate') }}", "line 1: roles must alternate"),
        ("\n{{ messages[0].content + [] }}", "line 2: TypeError"),
        ("{% if %}", "line 1: Expected an expression"),
    ],
    ids=["endless", "memory", "output", "refusal", "type", "syntax"],
)
def test_a_template_that_fails_or_is_out_of_bounds_is_an_error_and_the_next_works(worker, template, problem):
    with pytest.raises(RenderError, match=problem):
        worker.render(template, MESSAGES, {})
    assert worker.render("{{ messages[0].content }}", MESSAGES, {}) == "hi"


def test_constants_of_branches_that_are_not_taken_are_not_computed(worker):
    assert worker.render("{% if false %}{{ 'x' * 3000000000 }}{% endif %}ok", MESSAGES, {}) == "ok"


def test_threads_get_their_own_answers(worker):
    found = {}

    def ask(number):
        own = [{"role": "user", "content": str(number)}]
        found[number] = [worker.render("{{ messages[0].content }}", own, {}) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [str(number)] * 20 for number in range(8)}


def test_a_forked_process_has_a_worker_of_its_own(worker):
    worker.render("x", MESSAGES, {})
    before = worker._process.pid
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = worker.render("{{ messages[0].content }}", MESSAGES, {})
            os.write(sending, f"{text} {worker._process.pid != before}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    assert os.read(receiving, 100) == b"hi True"
    os.close(receiving)
    os.waitpid(child, 0)
    assert worker.render("{{ messages[0].content }}", MESSAGES, {}) == "hi"


def test_a_killed_worker_is_replaced(worker):
    worker.render("x", MESSAGES, {})
    worker._process.kill()
    worker._process.wait()
    assert worker.render("{{ messages[0].content }}", MESSAGES, {}) == "hi"
