"""The endpoints over real connections: answers, errors in OpenAI's form, and clients that misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.serving.app import Limits
from support.serving.fakes import FakeEngine
from support.serving.served import Served, served

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


def question(*tokens: int, **fields):
    """A chat whose answer goes on counting."""
    return {"messages": [{"role": "user", "content": " ".join(map(str, tokens))}], **fields}


def until(condition, seconds: float = 240.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never held"
        threading.Event().wait(0.01)


def error(response, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["code"] == code
    return found


def events(response) -> list[dict]:
    """The chunks of a stream, which ends as it should."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def server(engine):
    with served(engine) as running:
        yield running


def test_a_chat(server) -> None:
    with server.client() as client:
        response = client.post(CHAT, json=question(3, 4, max_tokens=3, model="numbers"))
    answer = response.json()
    assert response.status_code == 200
    assert answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "5 6 7"}
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_a_plain_completion_has_sixteen_tokens_by_default(server) -> None:
    with server.client() as client:
        answer = client.post(PLAIN, json={"prompt": "1"}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].split() == [str(number) for number in range(2, 18)]


def test_a_stream_is_the_whole_answer_in_pieces(server) -> None:
    body = question(1, max_tokens=4, stream=True, stream_options={"include_usage": True}, n=2)
    with server.client() as client:
        response = client.post(CHAT, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(response)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(one["delta"].get("content") or "" for one in own) == "2 3 4 5"
        assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + ["length"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_log_probabilities(server) -> None:
    body = question(1, max_tokens=1, logprobs=True, top_logprobs=2)
    with server.client() as client:
        chat = client.post(CHAT, json=body).json()["choices"][0]["logprobs"]["content"]
        plain = client.post(PLAIN, json={"prompt": "1", "max_tokens": 1, "logprobs": 1}).json()
    assert [one["token"] for one in chat] == ["2 "]
    assert len(chat[0]["top_logprobs"]) == 2
    assert bytes(chat[0]["bytes"]) == b"2 "
    assert plain["choices"][0]["logprobs"]["tokens"] == ["2 "]


def test_the_model_is_listed_with_its_length(server) -> None:
    with server.client() as client:
        [model] = client.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("numbers", 90)
    assert 0 < model["max_output_len"] < 90


def test_errors_have_openais_form(server) -> None:
    with server.client() as client:
        assert error(client.post(CHAT, content=b"{"), 400, "MM874")["type"] == "invalid_request_error"
        assert error(client.post(CHAT, json=question(1, model="other")), 404, "MM877")["param"] == "model"
        assert error(client.post(CHAT, json=question(1, top_p=0)), 400, "MM874")["param"] == "top_p"
        error(client.post(CHAT, json=question(*[1] * 51)), 400, "MM512")
        error(client.post(CHAT, json=question(1, max_tokens=41)), 400, "MM515")
        assert client.get("/v1/nothing").status_code == 404
        assert client.get(CHAT).status_code == 405


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/responses", "/v1/embeddings"])
def test_an_unknown_endpoint_is_answered_with_those_that_there_are(server, path) -> None:
    with server.client() as client:
        found = error(client.post(path, json={}), 404, "MM874")
    assert found["type"] == "not_found_error"
    assert found["message"] == (
        f"there is no endpoint `POST {path}` (use one of GET /health, GET /ready, GET /metrics, GET /v1/models, "
        "POST /v1/chat/completions, POST /v1/completions)"
    )


def test_another_method_than_the_endpoints_is_answered_with_it(server) -> None:
    with server.client() as client:
        response = client.get(CHAT)
    assert "no endpoint `GET /v1/chat/completions`" in error(response, 405, "MM874")["message"]
    assert response.headers["allow"] == "POST"


def test_an_error_of_the_engine_is_the_servers(engine, server) -> None:
    engine.session.fail = RuntimeError("lost")
    with server.client() as client:
        assert error(client.post(CHAT, json=question(1)), 500, "MM872")["type"] == "server_error"
        assert client.post(CHAT, json=question(1, max_tokens=1)).status_code == 200


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(engine, server, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("lost")

    monkeypatch.setattr(engine.session, "decode", fail)
    with server.client() as client:
        response = client.post(CHAT, json=question(1, stream=True))
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "MM872"


def test_without_its_engine_the_server_is_up_and_not_ready(engine) -> None:
    with served(engine, ready=False) as running, running.client() as client:
        assert client.get("/health").status_code == 200
        response = client.get("/ready")
        error(response, 503, "MM871")
        assert int(response.headers["retry-after"]) >= 1
        error(client.post(CHAT, json=question(1)), 503, "MM871")


def test_a_lost_engine_is_said_everywhere(server) -> None:
    server.server.lost = RankError("rank 1 has ended", code="MM585", hint="restart the server")
    with server.client() as client:
        for response in (client.get("/health"), client.get("/ready"), client.post(CHAT, json=question(1))):
            assert error(response, 503, "MM585")["type"] == "server_error"
            assert "rank 1 has ended" in response.text


def test_usage_of_a_stream_counts_what_the_answer_holds(server) -> None:
    body = question(1, max_tokens=9, stop=["4"], stream=True, stream_options={"include_usage": True})
    with server.client() as client:
        *_, last = events(client.post(CHAT, json=body))
        whole = client.post(CHAT, json=question(1, max_tokens=9, stop=["4"])).json()
    assert last["usage"] == whole["usage"]


def test_a_key_is_needed_where_there_is_one(engine) -> None:
    with served(engine, api_key="secret") as running, running.client() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            found = error(client.post(CHAT, json=question(1), headers=headers), 401, "MM878")
            assert found["type"] == "authentication_error"
        good = {"Authorization": "Bearer secret"}
        assert client.post(CHAT, json=question(1, max_tokens=1), headers=good).status_code == 200
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200


def test_metrics_and_log_tell_of_each_request(server) -> None:
    with server.client() as client:
        client.post(CHAT, json=question(1, 2, max_tokens=3))
        client.post(CHAT, json=question(1, n=0))
        text = client.get("/metrics").text
    assert 'mmbuild_requests_total{status="200"} 1.0' in text
    assert 'mmbuild_requests_total{status="400"} 1.0' in text
    assert "mmbuild_generated_tokens_total 3.0" in text
    assert "mmbuild_prompt_tokens_total 2.0" in text
    assert "mmbuild_requests_running 0.0" in text
    answered, refused = server.lines
    assert answered.startswith(f"{CHAT} 200 length prompt=2 tokens=3 queued=")
    assert refused.startswith(f"{CHAT} 400 MM874 ")


def test_a_full_queue_says_when_to_come_back(engine) -> None:
    engine.session.gate.clear()
    with served(engine, queue=1) as running, running.client() as client:
        statuses = []

        def ask() -> None:
            with running.client() as own:
                statuses.append(own.post(CHAT, json=question(1, max_tokens=1)).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: sum(running.loop.counts()) == 4)
        response = client.post(CHAT, json=question(1))
        assert error(response, 429, "MM870")["type"] == "rate_limit_error"
        assert 1 <= int(response.headers["retry-after"]) <= 60
        engine.session.gate.set()
        for thread in threads:
            thread.join(20)
        assert statuses == [200] * 4


def test_pieces_are_sent_at_once(engine) -> None:
    """Not held back until the client has acknowledged the one before, which takes 40 ms."""
    with served(engine) as running:
        body = json.dumps(question(1, stream=True, max_tokens=30)).encode()
        began = time.monotonic()
        with connect(running, post(body), body) as connection:
            while b"[DONE]" not in connection.recv(1 << 16):
                pass
        assert time.monotonic() - began < 1.0, "30 pieces of 40 ms would take longer"


# Clients that misbehave.


def connect(server: Served, head: str, body: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(head.replace("\n", "\r\n").encode() + body)
    return connection


def post(body: bytes, length: int | None = None) -> str:
    return f"POST {CHAT} HTTP/1.1\nHost: x\nContent-Length: {len(body) if length is None else length}\n\n"


def free(server: Served) -> None:
    until(lambda: server.loop.counts() == (0, 0))


def test_a_client_that_leaves_a_stream_frees_its_slot(engine, server) -> None:
    body = json.dumps(question(1, stream=True)).encode()
    decode = engine.session.decode

    def slow(tokens, rows):
        threading.Event().wait(0.02)
        return decode(tokens, rows)

    engine.session.decode = slow
    with connect(server, post(body), body) as connection:
        assert connection.recv(100)
    free(server)
    until(lambda: len(server.lines) == 1)
    assert " 499 " in server.lines[0]
    assert len(engine.session.calls) < 30, "the answer was given up"


def test_a_client_that_leaves_before_its_answer_frees_its_slot(engine, server) -> None:
    engine.session.gate.clear()
    body = json.dumps(question(1)).encode()
    connection = connect(server, post(body), body)
    until(lambda: server.loop.counts()[0] == 1)
    connection.close()
    until(lambda: len(server.lines) == 1)
    engine.session.gate.set()
    free(server)
    assert " 499 " in server.lines[0]


def test_a_request_that_is_too_large_is_not_read(engine) -> None:
    with served(engine, limits=Limits(body_bytes=1000)) as running:
        with connect(running, post(b"", length=100_000_000)) as connection:
            assert b" 413 " in connection.recv(4000)
        chunks = f"POST {CHAT} HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n"
        with connect(running, chunks, b"2000\r\n" + bytes(0x2000)) as connection:
            assert b" 413 " in connection.recv(4000)
        free(running)


def test_half_a_request_is_given_up(engine) -> None:
    limits, head = Limits(body_seconds=0.2), post(b"", length=50)
    with served(engine, limits=limits) as running, connect(running, head, b'{"messages"') as connection:
        assert b" 408 " in connection.recv(4000)


def test_half_a_head_is_given_up(engine, monkeypatch) -> None:
    monkeypatch.setattr("mmbuild.serving.http.HEADER_SECONDS", 0.2)
    with served(engine) as running, connect(running, f"POST {CHAT} HTTP/1.1\nHost: x\n") as connection:
        assert connection.recv(4000) == b""


@pytest.mark.parametrize(
    "first", ["GET /health HTTP/1.1\nHost: x\n\n", post(b"{}", length=2) + "{}", post(b"", length=10_000)]
)
def test_half_a_second_head_is_given_up(engine, monkeypatch, first) -> None:
    monkeypatch.setattr("mmbuild.serving.http.HEADER_SECONDS", 0.2)
    limits = Limits(body_bytes=1000)
    with served(engine, limits=limits) as running, connect(running, first) as connection:
        assert connection.recv(4000).startswith(b"HTTP/1.1 ")
        connection.sendall(b"G")
        while connection.recv(4000):  # to its end: one byte of the next request does not keep the connection
            pass


def test_a_second_request_on_a_connection_has_its_time(engine, monkeypatch) -> None:
    monkeypatch.setattr("mmbuild.serving.http.HEADER_SECONDS", 0.2)
    engine.session.gate.clear()
    with served(engine) as running, running.client() as client:
        assert client.get("/health").status_code == 200
        threading.Timer(0.4, engine.session.gate.set).start()
        assert client.post(CHAT, json=question(1)).status_code == 200


def test_a_client_that_does_not_read_is_given_up(engine) -> None:
    engine.config.max_output_len = 100_000
    engine.decoded = lambda ids: "x" * 50_000 * len(ids)
    with served(engine, limits=Limits(write_seconds=0.3)) as running:
        body = json.dumps(question(1, stream=True, ignore_eos=True, max_tokens=2000)).encode()
        with connect(running, post(body), body):
            until(lambda: running.lines)
            assert "does not read" in running.lines[0]
            free(running)


def test_an_answer_that_takes_too_long_is_given_up(engine) -> None:
    engine.session.gate.clear()
    with served(engine, limits=Limits(answer_seconds=0.2)) as running, running.client() as client:
        error(client.post(CHAT, json=question(1)), 504, "MM876")
        engine.session.gate.set()
        free(running)
