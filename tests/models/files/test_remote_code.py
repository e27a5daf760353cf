"""No code of a model is run: nothing requests it, and every loader refuses it explicitly."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbuild.models.errors import EngineError, ModelFilesError
from mmbuild.models.families.shared import hugging_face
from mmbuild.models.files.remote_code import require_no_code

SOURCES = Path(__file__).parents[3] / "src/mmbuild"


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    """Calls of a function or method ``name`` anywhere in the sources."""
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if name in text:
            for node in ast.walk(ast.parse(text)):
                if (
                    isinstance(node, ast.Call)
                    and getattr(node.func, "attr", getattr(node.func, "id", "")) == name
                ):
                    yield path, node


def options(call: ast.Call) -> dict[str | None, Any]:
    return {item.arg: getattr(item.value, "value", ...) for item in call.keywords}


def test_everything_that_transformers_loads_is_loaded_without_code() -> None:
    found = list(calls("from_pretrained"))
    assert found
    for path, call in found:
        assert options(call).get("trust_remote_code") is False, f"{path}:{call.lineno}"


def test_no_method_that_loads_is_passed_on_to_be_called_without_that() -> None:
    for path in SOURCES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\w\.from_pretrained(?!\()", re.sub(r'"""[\s\S]*?"""|#.*|``.*?``', "", text)), (
            path
        )


def test_pickles_are_read_for_their_weights_alone() -> None:
    loads = [(path, call) for path, call in calls("load") if ast.unparse(call.func) == "torch.load"]
    assert loads
    for path, call in loads:
        assert options(call).get("weights_only") is True, f"{path}:{call.lineno}"
    for path in SOURCES.rglob("*.py"):
        assert not re.search(
            r"\bpickle\.(load|loads|Unpickler)\b|\bjoblib\b|allow_pickle=True", path.read_text()
        ), path


def test_pictures_are_opened_in_one_module() -> None:
    pattern = re.compile(r"\b(Image|Pil|pillow)\.open\(")
    opening = {
        path.name for path in SOURCES.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert opening == {"images.py"}


@pytest.mark.parametrize(
    ("name", "settings", "code"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "MyTok", "auto_map": {"AutoTokenizer": ["tok.MyTok", None]}},
            "tok.py",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "MyTok", "auto_map": {"AutoTokenizer": "a/b--tok.MyTok"}},
            "b--tok.py",
        ),
        ("tokenizer_config.json", {"tokenizer_class": "MyTok", "auto_map": ["tok.MyTok", None]}, "tok.py"),
        (
            "processor_config.json",
            {"processor_class": "MyProc", "auto_map": {"AutoProcessor": "p.MyProc"}},
            "p.py",
        ),
        (
            "preprocessor_config.json",
            {"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "i.Mine"}},
            "i.py",
        ),
        (
            "processor_config.json",
            {
                "image_processor": {
                    "image_processor_type": "Mine",
                    "auto_map": {"AutoImageProcessor": "i.Mine"},
                }
            },
            "i.py",
        ),
    ],
)
def test_a_class_that_comes_as_code_is_refused_by_name(
    tmp_path: Path, name: str, settings: dict[str, Any], code: str
) -> None:
    (tmp_path / name).write_text(json.dumps(settings))
    with pytest.raises(ModelFilesError) as caught:
        require_no_code(tmp_path)
    assert caught.value.code == "MM750"
    assert code in caught.value.message
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "LlamaTokenizer", "auto_map": {"AutoTokenizer": ["t.T", None]}},
        ),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}),
        ("tokenizer_config.json", {"tokenizer_class": "Anything"}),
        (
            "preprocessor_config.json",
            {"image_processor_type": "CLIPImageProcessor", "auto_map": {"AutoImageProcessor": "i.I"}},
        ),
        (
            "processor_config.json",
            {"processor_class": "LlavaProcessor", "auto_map": {"AutoProcessor": "p.P"}},
        ),
    ],
)
def test_where_transformers_has_a_class_the_entry_means_nothing(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    (tmp_path / name).write_text(json.dumps(settings))
    require_no_code(tmp_path)


class _Asking:
    """Stands for transformers' classes."""

    options: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, directory: Path, **options: Any) -> str:
        cls.options = options
        return str(directory)


def test_only_local_files_are_loaded_and_no_remote_code(tmp_path: Path) -> None:
    assert hugging_face.pretrained(_Asking, tmp_path, backend="pil") == str(tmp_path)
    assert _Asking.options == {"local_files_only": True, "trust_remote_code": False, "backend": "pil"}


def test_a_tokenizer_that_needs_code_is_a_coded_error_and_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    settings = {"tokenizer_class": "MyTok", "auto_map": {"AutoTokenizer": ["tok.MyTok", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tok.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass MyTok: pass\n")
    with pytest.raises(EngineError) as caught:
        hugging_face.saved_tokenizer(tmp_path)
    assert caught.value.code == "MM516"
    assert not (tmp_path / "ran").exists()
