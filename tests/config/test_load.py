"""The user's configuration: its path, its valid contents, and the locations of errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmbuild.base.diagnostics import Diagnostic, RecipeError
from mmbuild.base.errors import MmbuildError
from mmbuild.config.load import config_path, load, parse
from mmbuild.config.model import UserConfig

WHOLE = """\
toolchains:
  0.9.0:
    python: ~/venvs/trtllm-0.9/bin/python
    examples: /src/TensorRT-LLM-0.9
    variables: {TOKENIZERS_PARALLELISM: 'false'}
  1.2:
    container:
      engine: podman
      image: registry.example/trtllm:1.2.1
      options: [--security-opt, label=disable]
    examples: /src/TensorRT-LLM-1.2
tensorrt:
  python: /opt/trt/bin/python
"""
ENTRY = "toolchains:\n  0.9.0:\n    examples: /e\n"


def findings(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        parse(text, "config.yaml")
    return caught.value.diagnostics


def pointed(found: Diagnostic) -> str:
    """The characters that the caret line underlines."""
    return found.excerpt[found.column - 1 : found.column - 1 + found.width]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MMBUILD_CONFIG": "/a/b.yaml", "XDG_CONFIG_HOME": "/x"}, "/a/b.yaml"),
        ({"MMBUILD_CONFIG": "~/b.yaml"}, "/home/u/b.yaml"),
        ({"MMBUILD_CONFIG": "", "XDG_CONFIG_HOME": "/x"}, "/x/mmbuild/config.yaml"),
        ({"XDG_CONFIG_HOME": "x"}, "/home/u/.config/mmbuild/config.yaml"),
        ({}, "/home/u/.config/mmbuild/config.yaml"),
    ],
)
def test_the_path_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("MMBUILD_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **variables}.items():
        monkeypatch.setenv(name, value)
    assert config_path() == Path(expected)


def test_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    config = parse(WHOLE, "config.yaml")
    older, newer = config.toolchains["0.9.0"], config.toolchains["1.2"]
    assert older.python == Path("/home/u/venvs/trtllm-0.9/bin/python")
    assert older.variables == {"TOKENIZERS_PARALLELISM": "false"}
    assert older.container is None
    assert newer.python is None
    assert newer.container is not None
    assert newer.container.options == ("--security-opt", "label=disable")
    assert config.tensorrt is not None
    assert config.tensorrt.python == Path("/opt/trt/bin/python")


def test_the_example_of_the_page_is_a_configuration() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text("utf-8")
    config = parse(page.partition("```yaml\n")[2].partition("```")[0], "docs/environments.md")
    assert set(config.toolchains) == {"0.10.0", "1.2"}
    assert config.tensorrt is not None


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "---\n", "{}\n", "null\n"])
def test_a_missing_file_is_an_empty_configuration(text: str) -> None:
    assert parse(text, "config.yaml") == UserConfig()


def test_no_file_is_an_empty_configuration(tmp_path: Path) -> None:
    assert load(tmp_path / "no" / "config.yaml") == UserConfig()


@pytest.mark.parametrize(
    ("text", "code", "line", "caret"),
    [
        (f"{ENTRY}    pyton: /p\n    python: /p\n", "MM103", 4, "pyton"),
        (f"{ENTRY}    python: venv/bin/python\n", "MM611", 4, "venv/bin/python"),
        (f"{ENTRY}    python: ~nobody-of-that-name/p\n", "MM611", 4, "~nobody-of-that-name/p"),
        (f"{ENTRY}    python: 3\n", "MM114", 4, "3"),
        (ENTRY, "MM611", 2, "0.9.0"),
        (f"{ENTRY}    python: /p\n    container: {{engine: docker, image: i}}\n", "MM611", 2, "0.9.0"),
        (f"{ENTRY}    container: {{engine: dockr, image: i}}\n", "MM112", 4, "dockr"),
        (f"{ENTRY}    container: {{engine: docker, image: --privileged}}\n", "MM116", 4, "--privileged"),
        (f"{ENTRY}    container: {{engine: docker}}\n", "MM111", 4, "container"),
        (f"{ENTRY}    python: /p\n    variables: {{A: 1}}\n", "MM114", 5, "1"),
        (f"{ENTRY}    python: /p\n    python: /q\n", "MM104", 5, "python"),
        ("toolchains:\n  0.9.0: {python: /p}\n", "MM111", 2, "0.9.0"),
        ("toolchains:\n  0.11.0: {python: /p, examples: /e}\n", "MM601", 2, "0.11.0"),
        ("toolchains:\n  '1.3': {python: /p, examples: /e}\n", "MM602", 2, "'1.3'"),
        ("toolchains: []\n", "MM114", 1, "["),
        ("toolchain: {}\n", "MM103", 1, "toolchain"),
        ("tensorrt: {python: yes}\n", "MM108", 1, "yes"),
        ("tensorrt: {python: p}\n", "MM611", 1, "p"),
        ("[1]\n", "MM114", 1, "["),
        ("tensorrt: @x\n", "MM101", 1, "@"),
    ],
)
def test_a_fault_is_reported_where_it_is(text: str, code: str, line: int, caret: str) -> None:
    (found,) = findings(text)
    assert (found.code, found.line, pointed(found)) == (code, line, caret)
    assert found.file == "config.yaml"


def test_a_name_of_a_variable_must_be_one() -> None:
    assert {found.code for found in findings(f"{ENTRY}    python: /p\n    variables: {{'A=B': 'x'}}\n")} == {
        "MM116"
    }


def test_all_faults_are_reported_at_once_in_the_order_of_lines() -> None:
    text = f"{ENTRY}    python: p\n  0.11.0: {{python: /p}}\nfurther: 1\n"
    assert [found.code for found in findings(text)] == ["MM611", "MM111", "MM601", "MM103"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"# " + b"x" * 1_000_001])
def test_a_file_that_is_not_a_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(MmbuildError) as caught:
        load(path)
    assert caught.value.code == "MM610"
    assert str(path) in caught.value.message


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(MmbuildError) as caught:
        load(tmp_path)
    assert caught.value.code == "MM610"


def test_finding_the_path_imports_no_pydantic() -> None:
    program = (
        "import sys; from mmbuild.config.load import config_path; config_path();"
        "print([name for name in ('pydantic', 'yaml', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
