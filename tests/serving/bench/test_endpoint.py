"""Which server is measured: URL, key, model."""

import os

import pytest

from mmbuild.base.errors import UsageError
from mmbuild.serving.bench.endpoint import Server, ServerError, base_url, identify, read_key, target_of
from support.errors import refused
from support.servers.openai import chat_server


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://example.com/api", "https://example.com/api/v1"),
    ],
)
def test_urls(text, expected):
    assert base_url(text) == expected


@pytest.mark.parametrize(
    "text", ["", "localhost:8000", "ftp://a", "http://", "http://u:secret@a", "http://a?b", "http://a:x"]
)
def test_wrong_urls(text):
    refused(UsageError, "MM860", base_url, text)


def test_the_only_model_is_used(server):
    server.version = "0.99"
    found = identify(Server(base_url(server.url)))
    assert (found.model, found.version) == ("shapes", "0.99")
    assert target_of(found)["name"] == "shapes"


@pytest.mark.parametrize(("stated", "read"), [(40, 40), (None, None), (0, None), (True, None), ("40", None)])
def test_the_length_of_answers_is_read_from_a_server_that_states_it(server, stated, read):
    server.facts = {"max_output_len": stated}
    assert identify(Server(base_url(server.url))).most_tokens == read


def test_a_chosen_model_needs_no_list(server):
    server.models = ()
    found = identify(Server(base_url(server.url), "other"))
    assert (found.model, found.version) == ("other", None)


@pytest.mark.parametrize(("models", "words"), [((), "none"), (("a", "b"), "`a`, `b`")])
def test_several_models_or_none(server, models, words):
    server.models = models
    error = refused(ServerError, "MM861", identify, Server(base_url(server.url)))
    assert words in error.message
    assert "--model" in error.hint


def test_a_server_that_is_not_there():
    error = refused(ServerError, "MM861", identify, Server("http://127.0.0.1:1/v1"))
    assert "127.0.0.1:1" in error.message


def test_a_wrong_key_is_reported(server):
    server.key = "right"
    error = refused(ServerError, "MM861", identify, Server(base_url(server.url), key="wrong"))
    assert "401" in error.message
    assert "wrong key" in error.message
    assert identify(Server(base_url(server.url), key="right")).model == "shapes"


def test_a_key_is_never_shown():
    server = Server("http://a/v1", "m", key="secret")
    assert "secret" not in repr(server)
    assert "secret" not in str(target_of(server))


def test_keys_in_files(tmp_path):
    path = tmp_path / "key"
    path.write_text("sk-12\n")
    assert read_key(path) == "sk-12"
    for wrong in ("", "\n", "two words", "sk\nsk", "schlüssel", "x" * 5000):
        path.write_text(wrong)
        error = refused(ServerError, "MM863", read_key, path)
        assert wrong not in error.message or len(wrong) < 2
    refused(ServerError, "MM863", read_key, tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    refused(ServerError, "MM863", read_key, tmp_path / "pipe")
