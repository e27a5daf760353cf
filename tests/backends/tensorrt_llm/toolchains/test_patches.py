"""Edits of VILA's code: applied once to unchanged code, and refused otherwise."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.model import Edit
from mmbuild.backends.tensorrt_llm.toolchains.patches import apply_edit, edited_text
from mmbuild.schema.tensorrt_llm_versions import ToolchainError
from support.toolchain.cases import load

# Lines of the form that the edits were written for, in files of our own.
ARCH = """\
class LlavaMetaModel:
    def __init__(self, config):
        self.vision_tower = build_vision_tower(config, delay_load=True)
        self.other = build(delay_load=True)

    def prepare_inputs(self, input_ids, images):
        vision_tower = self.get_vision_tower()
        if vision_tower is None:
            return input_ids
        return vision_tower(images)
"""
LLAMA = """\
outputs = super().forward(
    inputs_embeds=inputs_embeds,
    seqlens_in_batch=sorted_seqlens_in_batch,
    return_dict=return_dict,
)
"""
VERSIONS = ("0.9.0.dev2024040900", "0.9.0", "0.10.0")


def edits(version: str) -> list[Command]:
    (variant,) = load("vila-7b-fp16", "engine.backend=torch")
    return [step for step in commands(variant, load_toolchain(version)) if step.edit is not None]


def checkout(root: Path) -> None:
    """VILA's code where commands look for it, below ``root``."""
    model = root / "tmp/hf_models/VILA/llava/model"
    (model / "language_model").mkdir(parents=True)
    (model / "llava_arch.py").write_text(ARCH, "utf-8")
    (model / "language_model" / "llava_llama.py").write_text(LLAMA, "utf-8")


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text("utf-8") for path in sorted(root.rglob("*.py"))}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_edit_does_what_upstreams_sed_does(version: str, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    checkout(ours)
    checkout(theirs)
    found = edits(version)
    assert len(found) == 3
    for step in found:
        assert step.edit is not None
        assert apply_edit(step.edit, ours)
        assert step.argv[0] == "sed"
        subprocess.run(step.argv, cwd=theirs, check=True)
    assert contents(ours) == contents(theirs) != {}
    assert "delay_load=True" not in str(contents(ours))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_edit_is_applied_only_once(version: str, tmp_path: Path) -> None:
    checkout(tmp_path)
    for step in edits(version):
        assert step.edit is not None
        assert apply_edit(step.edit, tmp_path)
        once = contents(tmp_path)
        assert not apply_edit(step.edit, tmp_path)
        assert contents(tmp_path) == once


@pytest.mark.parametrize("version", VERSIONS)
def test_changed_code_is_refused_and_left_unchanged(version: str, tmp_path: Path) -> None:
    checkout(tmp_path)
    for path in tmp_path.rglob("*.py"):
        path.write_text("# another release\n", "utf-8")
    before = contents(tmp_path)
    for step in edits(version):
        assert step.edit is not None
        with pytest.raises(ToolchainError) as caught:
            apply_edit(step.edit, tmp_path)
        assert caught.value.code == "MM701"
        assert step.edit.find in caught.value.message
        assert "model.code" in (caught.value.hint or "")
    assert contents(tmp_path) == before


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        apply_edit(Edit(file="nothing.py", find="a", replace="b"), tmp_path)
    assert caught.value.code == "MM701"


@pytest.mark.parametrize("both", [{}, {"replace": "a", "after": "b"}])
def test_an_edit_replaces_or_adds_and_never_both(both: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="an edit needs exactly one of"):
        Edit(file="f", find="x", **both)


WORDS = st.text(alphabet="ab#\n ", max_size=40)
PIECE = st.text(alphabet="ab#", min_size=1, max_size=3)


@given(text=WORDS, find=PIECE, prefix=st.text(alphabet="#", max_size=2))
def test_commenting_out_twice_is_commenting_out_once(text: str, find: str, prefix: str) -> None:
    edit = Edit(file="f", find=find, replace=prefix + find)
    once = edited_text(edit, text)
    assert edited_text(edit, once) == once


@given(text=WORDS, find=PIECE)
def test_a_line_is_put_after_each_line_that_holds_the_text_once(text: str, find: str) -> None:
    edit = Edit(file="f", find=find, after="+")
    once = edited_text(edit, text)
    assert edited_text(edit, once) == once
    rows = once.split("\n")
    assert [row for row in rows if row != "+"] == text.split("\n")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        assert (find in row) == (following == "+")
