"""The model's config.json: a directory's, a recorded one, the hub's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mmbuild.base.errors import MmbuildError
from mmbuild.base.limits import MODEL_JSON
from mmbuild.base.pins import Pins
from mmbuild.models.families import MODULES, family
from mmbuild.models.sources.config import ConfigError, SourceRef, parse_source, read_config, recorded_models


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("hf://owner/name", "hub", "owner/name"),
        ("dummy://owner/name-1.5_x", "dummy-hub", "owner/name-1.5_x"),
        ("dummy:///abs/dir", "dummy-directory", "/abs/dir"),
        ("dummy://./dir", "dummy-directory", "./dir"),
        ("dummy://../dir", "dummy-directory", "../dir"),
        ("dummy://.", "dummy-directory", "."),
        ("models/x", "directory", "models/x"),
        ("/abs", "directory", "/abs"),
    ],
)
def test_a_source_is_taken_apart(text: str, kind: str, value: str) -> None:
    ref = parse_source(text)
    assert (ref.kind, ref.value) == (kind, value)
    assert isinstance(ref, SourceRef)


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://one", "hf://a/b/c", "hf://../x", "hf://a/b?x", "dummy://one", "s3://a/b", "http://a/b"],
)
def test_an_invalid_source_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert caught.value.code == "MM131"


def test_a_directory_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text('{"a": 1}', encoding="utf-8")
    for source in ("m", "dummy://./m", f"dummy://{tmp_path}/m"):
        found = read_config(source, None, tmp_path)
        assert (found.config, found.origin, found.files) == ({"a": 1}, "file", (tmp_path / "m/config.json",))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "MM130"),
        (b"", "MM132"),
        (b"{", "MM132"),
        (b"[]", "MM132"),
        (b"\xff\xff", "MM132"),
        (b"[" * 100_000, "MM132"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "MM132"),
        (b" " * (MODEL_JSON.size + 1), "MM132"),
    ],
)
def test_a_directory_without_a_good_config(tmp_path: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(".", None, tmp_path)
    assert caught.value.code == code
    assert "config.json" in caught.value.message


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_config("nowhere", None, tmp_path)


@pytest.mark.parametrize("repo", recorded_models())
def test_a_recorded_config_serves_the_hub_and_random_weights(repo: str, tmp_path: Path) -> None:
    found = read_config(f"hf://{repo}", None, tmp_path, offline=True)
    assert found.origin == "recorded"
    assert read_config(f"dummy://{repo}", None, tmp_path).config == found.config


# The language model's section of each kind of config; VILA's own kind is none of transformers'.
_TEXT = {"llava": "text_config", "blip-2": "text_config", "vision-encoder-decoder": "decoder"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_recorded_facts_are_what_transformers_reads_out_of_them(name: str, tmp_path: Path) -> None:
    compared = 0
    for repo in recorded_models():
        config = read_config(f"hf://{repo}", None, tmp_path, offline=True).config
        try:
            llm = family(name).facts(config).llm
        except MmbuildError:
            continue  # of another family, or the half of a model
        section = config.get(_TEXT.get(config["model_type"], "llm_cfg"))
        theirs = CONFIG_MAPPING[section["model_type"]].from_dict(dict(section))
        assert (llm.vocab_size, llm.hidden_size) == (theirs.vocab_size, theirs.hidden_size)
        layers = getattr(theirs, "decoder_layers", None) or getattr(theirs, "num_decoder_layers", None)
        assert llm.num_hidden_layers == (layers or theirs.num_hidden_layers)
        heads = getattr(theirs, "decoder_attention_heads", None) or theirs.num_attention_heads
        assert llm.num_attention_heads == heads
        compared += 1
    assert compared


def test_an_unrecorded_model_is_not_requested_offline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("hf://no/body", None, tmp_path, offline=True)
    assert caught.value.code == "MM133"
    assert str(caught.value.hint).startswith("recorded: ")
    assert caught.value.hint
    assert "llava-hf/llava-1.5-7b-hf" in caught.value.hint


def test_a_mistyped_name_of_a_recorded_model_offline(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_config("hf://llava-hf/llava-1.5-7b", None, tmp_path, offline=True)
    assert (caught.value.code, caught.value.hint) == ("MM133", "did you mean `llava-hf/llava-1.5-7b-hf`?")


def test_an_unrecorded_model_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def fetch_config(repo: str, revision: str | None, _pins: Pins) -> dict[str, object]:
        requested.append((repo, revision))
        return {"model_type": "llava"}

    # The hub client is tested elsewhere, with a server; this only checks the calls.
    hub = SimpleNamespace(fetch_config=fetch_config)
    monkeypatch.setitem(sys.modules, "mmbuild.models.sources.hub", hub)
    found = read_config("hf://some/body", "v1", tmp_path)
    assert (found.origin, found.config, requested) == ("hub", {"model_type": "llava"}, [("some/body", "v1")])
