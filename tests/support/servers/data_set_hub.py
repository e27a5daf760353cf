"""A data set of small pictures on a hub that runs on the loopback interface, and the client pointed at it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from PIL import Image

from support.servers.hub import Hub, commit_id, running

REPO = "datasets/shapes/pictures"
FIRST, SECOND = commit_id(11), commit_id(12)


def picture(number: int) -> bytes:
    """A PNG that no other number gives."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 7 % 256, number % 256, 3)).save(data, "PNG")
    return data.getvalue()


def lines(samples: list[dict[str, Any]]) -> bytes:
    """A JSONL file."""
    return "".join(json.dumps(sample) + "\n" for sample in samples).encode()


def image_folder(count: int, home: str = "train/") -> dict[str, bytes]:
    """Files of a data set in the imagefolder form, below ``home``."""
    rows = [{"file_name": f"images/{n}.png", "text": f"picture {n}"} for n in range(count)]
    pictures = {f"{home}images/{n}.png": picture(n) for n in range(count)}
    return {"README.md": b"pictures", f"{home}metadata.jsonl": lines(rows), **pictures}


@contextmanager
def serving(
    files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch, repo: str = REPO
) -> Iterator[Hub]:
    """A hub with ``files`` at ``main``; the client's cache is ``cache``, and it never waits to retry."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(cache), raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with running(Hub(repo=repo, commits={FIRST: files}, branches={"main": FIRST})) as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield state
