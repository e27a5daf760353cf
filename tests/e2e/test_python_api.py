"""The examples of docs/python-api.md run unchanged, in a scratch project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.engines.first_apply import compiled_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python-api.md").read_text("utf-8")


def test_the_examples_of_the_page_run_in_one_script(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compiled_store(tmp_path_factory, tmp_path / "store")
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "mmbuild.yaml").touch()  # marks the project's root
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    assert len(blocks) == PAGE.count("```") // 2
    (tmp_path / "page.py").write_text("\n".join(blocks), "utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "MMBUILD_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "llava-shapes-int4" / "engine.json").is_file()
    for shown in (
        "max_batch_size 4 x max_images_per_prompt 1 x num_visual_features 64 = 256",
        "MM112 `engine.quantization` cannot be `int5`",
        "llava-shapes-int4/quantize - run - never built",
        "0 actions ran in ",
        " tokens/s\n",
        "MM540\n",
    ):
        assert shown in done.stdout
    assert "red\n" in done.stdout, "the square is red, and the draw is seeded"
