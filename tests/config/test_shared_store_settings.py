"""When to pull and push, and that secrets are never shown."""

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.config.shared_store_settings import Settings, settings
from mmbuild.core.execution.worker_environment import listed_environment
from mmbuild.team.remote_cache.object_store import connect

URL = "https://me:hunter22@host/path?token=abcdef123"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    for name in ("CI", "MMBUILD_REMOTE", "MMBUILD_PUSH", "MMBUILD_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config.yaml"
    monkeypatch.setenv("MMBUILD_CONFIG", str(path))
    return path


def test_there_is_no_shared_store_by_default(config):
    assert settings() is None
    config.write_text("toolchains: {}\n# store\n")
    assert settings() is None


@pytest.mark.parametrize(
    ("push", "ci", "pushes"),
    [
        ("auto", None, False),
        ("auto", "true", True),
        ("auto", "0", False),
        ("auto", "", False),
        ("always", None, True),
        ("never", "true", False),
    ],
)
def test_ci_writes_and_people_read(config, monkeypatch, push, ci, pushes):
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    config.write_text(f"store: {{remote: 'file:///srv/x', push: {push}, pull: never}}")
    found = settings()
    assert (found.push, found.pull) == (pushes, False)
    monkeypatch.setenv("MMBUILD_PUSH", "always")
    assert settings().push


def test_the_variable_overrides_the_file_and_off_disables_it(config, monkeypatch):
    config.write_text("store: {remote: 'file:///srv/x', timeout: 3}")
    monkeypatch.setenv("MMBUILD_REMOTE", "memory://y")
    assert (settings().url, settings().timeout) == ("memory://y", 3)
    monkeypatch.setenv("MMBUILD_REMOTE", "off")
    assert settings() is None


@pytest.mark.parametrize(("name", "value"), [("MMBUILD_REMOTE", "/srv/x"), ("MMBUILD_PUSH", "sometimes")])
def test_invalid_variables_are_reported(config, monkeypatch, name, value):
    config.write_text("store: {remote: 'file:///srv/x'}")
    monkeypatch.setenv(name, value)
    with pytest.raises(MmbuildError) as caught:
        settings()
    assert caught.value.code == "MM820"


@pytest.mark.parametrize("url", ["sfile:///srv/mmbuild", "http://:80/a@b"])
def test_a_url_is_shown_as_it_was_written(url):
    chosen = settings(url)
    assert chosen is not None
    assert chosen.shown == url


@pytest.mark.parametrize("url", ["nowhere", "s3:/bucket"])
def test_what_is_not_a_url_is_shown_as_it_was_written(url):
    with pytest.raises(MmbuildError, match=f"^`{url}` is not a shared store URL"):
        settings(url)


@pytest.mark.parametrize(
    "url", ["http://[::1", "s3://[x", "http://host:abc/x", "http://host:99999", "http://host:0"]
)
def test_a_url_without_host_or_port_is_reported_wherever_it_is_from(config, monkeypatch, url):
    monkeypatch.delenv("MMBUILD_REMOTE", raising=False)
    config.write_text(f"store: {{remote: '{url}'}}")
    for given in (None, url.replace("://", "://me:hunter22@") + "?token=abcdef123"):
        with pytest.raises(MmbuildError, match="is not a shared store URL") as caught:
            settings(given)
        assert caught.value.code == "MM820"
        assert "hunter22" not in caught.value.message
        assert "abcdef123" not in caught.value.message


def test_options_may_name_variables(config, monkeypatch):
    config.write_text("store: {remote: 's3://b', options: {a: {b: ['x-${MINE}']}}}")
    with pytest.raises(MmbuildError, match="`MINE`, which is not set"):
        settings()
    monkeypatch.setenv("MINE", "secret")
    assert settings().options == {"a": {"b": ["x-secret"]}}


def test_nothing_secret_is_shown():
    found = Settings(URL, options={"client_kwargs": {"headers": {"Authorization": "Bearer tok-123456"}}})
    assert found.shown == "https://host/path"
    reported = found.redact(f"cannot reach {URL}: sent Bearer tok-123456 as me:hunter22 with token=abcdef123")
    assert reported == "cannot reach https://host/path: sent *** as me:*** with ***"
    assert "tok-123456" not in repr(found)


def test_steps_see_neither_the_url_nor_the_key():
    given = {"MMBUILD_REMOTE": URL, "MMBUILD_SIGNING_KEY": "PEM", "MMBUILD_STEPS": "x"}
    assert listed_environment(given).keys() & given.keys() == {"MMBUILD_STEPS"}


def test_an_unknown_protocol_is_reported():
    with pytest.raises(MmbuildError, match="cannot be used") as caught:
        connect(Settings("nonsense://x"))
    assert caught.value.code == "MM820"
