"""Work directories: laid out as upstream's page expects, never writing into the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmbuild.backends.tensorrt_llm.runner.workdir import link_tree, linked_directories, make_workplace

WORKDIR = "examples/models/core/multimodal"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in (
        f"{WORKDIR}/run.py",
        f"{WORKDIR}/tmp/hf_models/old/config.json",
        f"{WORKDIR}/prompt_table.npy",
        "examples/models/core/llama/convert_checkpoint.py",
        "examples/models/contrib/opt/convert_checkpoint.py",
        "examples/utils.py",
        "cpp/kernel.cu",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, "utf-8")
    return root


def test_scripts_find_each_other_by_relative_paths(checkout: Path, tmp_path: Path) -> None:
    cwd = make_workplace(tmp_path / "w", checkout, WORKDIR, ["tmp/hf_models/m"])
    assert cwd == tmp_path / "w" / WORKDIR
    for name in (
        "run.py",
        "../llama/convert_checkpoint.py",
        "../../contrib/opt/convert_checkpoint.py",
        "../../../utils.py",
    ):
        assert Path(os.path.normpath(cwd / name)).is_file(), name


def test_leftovers_of_manual_work_in_the_checkout_are_neither_visible_nor_written_to(
    checkout: Path, tmp_path: Path
) -> None:
    before = sorted(path for path in checkout.rglob("*"))
    cwd = make_workplace(tmp_path / "w", checkout, WORKDIR, ["tmp/hf_models/m", "trt_engines/m"])
    assert not (cwd / "tmp").exists()
    (cwd / "tmp/hf_models/m").mkdir(parents=True)
    (cwd / "trt_engines/m").mkdir(parents=True)
    (cwd / "model.cache").write_text("timing", "utf-8")
    assert sorted(path for path in checkout.rglob("*")) == before


def test_the_path_to_the_scripts_consists_of_real_directories_so_that_dot_dot_works(
    checkout: Path, tmp_path: Path
) -> None:
    cwd = make_workplace(tmp_path / "w", checkout, WORKDIR, [])
    for directory in (cwd, *cwd.parents[:3]):
        assert not directory.is_symlink()


def test_a_model_is_laid_out_as_real_directories_with_links(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "llm").mkdir(parents=True)
    (model / "config.json").write_text("{}", "utf-8")
    (model / "llm" / "weights").write_bytes(b"w")
    users = tmp_path / "elsewhere" / "tokenizer.json"
    users.parent.mkdir()
    users.write_text("t", "utf-8")
    (model / "tokenizer.json").symlink_to(users)
    place = tmp_path / "tmp" / "hf" / "m"
    link_tree(model, place)
    assert (place / "llm").is_dir()
    assert not (place / "llm").is_symlink()
    assert (place / "llm" / "weights").samefile(model / "llm" / "weights")
    assert (place / ".." / "m" / "config.json").read_text("utf-8") == "{}"
    assert (place / "tokenizer.json").resolve() == users
    assert linked_directories({"model": place}) == (users.parent,)


def test_symbolic_links_point_to_the_files_themselves(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "a").write_text("a", "utf-8")
    link_tree(model, tmp_path / "place", symbolic=True)
    assert (tmp_path / "place" / "a").readlink() == model / "a"
    assert linked_directories({"model": tmp_path / "place"}) == (model,)


def test_a_directory_covers_everything_below_it(tmp_path: Path) -> None:
    """An engine with hundreds of code directories is one mount; files elsewhere need another."""
    engine, elsewhere = tmp_path / "engine", tmp_path / "store"
    for name in ("code/a/b/one.py", "code/c/two.py"):
        (engine / name).parent.mkdir(parents=True)
        (engine / name).write_text(name, "utf-8")
    elsewhere.mkdir()
    (elsewhere / "object").write_text("o", "utf-8")
    (engine / "code" / "three.py").symlink_to(elsewhere / "object")
    link_tree(engine, tmp_path / "place", symbolic=True)
    found = linked_directories({"engine": tmp_path / "place"}, (engine,))
    assert sorted(found) == [engine, elsewhere]
