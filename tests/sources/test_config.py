"""The model's config.json: a directory's, a recorded one, the hub's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import LlavaConfig

from mmbuild.families.llava import facts
from mmbuild.sources.config import (
    MAX_BYTES,
    ConfigError,
    SourceRef,
    parse_source,
    read_config,
    recorded_models,
)


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
def test_what_is_no_source_is_refused(text: str) -> None:
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
        (b" " * (MAX_BYTES + 1), "MM132"),
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
def test_recorded_facts_are_what_transformers_reads_out_of_them(repo: str, tmp_path: Path) -> None:
    found = read_config(f"hf://{repo}", None, tmp_path, offline=True)
    assert found.origin == "recorded"
    theirs = LlavaConfig(
        **{k: v for k, v in json.loads(json.dumps(dict(found.config))).items() if k != "model_type"}
    )
    ours = facts(found.config)
    for name in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ):
        assert getattr(ours.llm, name) == getattr(theirs.text_config, name)
    assert ours.visual.num_visual_features == theirs.image_seq_length
    assert ours.image_token_id == theirs.image_token_index
    assert read_config(f"dummy://{repo}", None, tmp_path).config == found.config


def test_an_unrecorded_model_is_not_asked_for_offline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("hf://no/body", None, tmp_path, offline=True)
    assert caught.value.code == "MM133"
    assert caught.value.hint
    assert "llava-hf/llava-1.5-7b-hf" in caught.value.hint


def test_an_unrecorded_model_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch_config(repo: str, revision: str | None) -> dict[str, object]:
        asked.append((repo, revision))
        return {"model_type": "llava"}

    # The hub client itself is tested with its server; here only who is asked for what.
    hub = SimpleNamespace(fetch_config=fetch_config)
    monkeypatch.setitem(sys.modules, "mmbuild.sources.hub", hub)
    found = read_config("hf://some/body", "v1", tmp_path)
    assert (found.origin, found.config, asked) == ("hub", {"model_type": "llava"}, [("some/body", "v1")])
