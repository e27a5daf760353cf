"""Requests that other processes prepare are those that this one would, errors included, whatever ends a process."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmbuild.base.errors import MmbuildError
from mmbuild.models.families.processor import load_processor
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.preparation import Preparers, Setting, process_count
from mmbuild.serving.protocol import Chat, Completion
from mmbuild.serving.service import prepared

pytestmark = pytest.mark.slow  # a process imports torch and transformers

EXAMPLES = Path(__file__).parents[2] / "examples"
SETTING = Setting(EXAMPLES / "models" / "llava-shapes", "llava", "shapes", PicturePolicy())


def body(*, model: str = "shapes", picture: bytes | None = None) -> bytes:
    content = (EXAMPLES / "pictures" / "three-red-stars.png").read_bytes() if picture is None else picture
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what colour ?"}]
    return json.dumps(
        {"model": model, "max_tokens": 7, "messages": [{"role": "user", "content": parts}]}
    ).encode()


def result(content: bytes, kind, prepare):
    """What comes of a request: its parts as plain data, or its error."""
    try:
        made, request = prepare(content, kind)
    except MmbuildError as error:
        fields = {name: getattr(error, name, None) for name in ("message", "code", "hint", "param")}
        return type(error).__name__ == "ProtocolError" or fields["code"], fields
    return made.model_dump(), request.ids, request.pixels.tolist(), request.conversions


def here(content, kind):
    processor = load_processor(SETTING.directory, SETTING.family)
    return prepared(processor, SETTING.policy, SETTING.model, content, kind)


def test_another_process_prepares_what_this_one_would_and_another_takes_over_when_it_ends() -> None:
    preparers = Preparers(SETTING, 1)
    preparers.start()

    def there(content, kind):
        return asyncio.run(preparers.prepare(content, kind))

    try:
        whole = result(body(), Chat, there)
        assert whole == result(body(), Chat, here)
        assert whole[0]["messages"] == []
        assert whole[0]["max_tokens"] == 7
        assert torch.tensor(whole[2]).shape == (1, 3, 64, 64)
        plain = json.dumps({"prompt": "what colour ?"}).encode()
        assert result(plain, Completion, there) == result(plain, Completion, here)
        for wrong in (b"{", b"[]", body(model="other"), body(picture=b"not a picture"), b'{"messages": []}'):
            (_, refused), (_, expected) = (result(wrong, Chat, prepare) for prepare in (there, here))
            assert refused == expected
        (worker,) = preparers._pool._processes
        watch = os.pidfd_open(worker)
        os.kill(worker, signal.SIGKILL)
        select.select([watch], [], [])
        os.close(watch)
        with pytest.raises(MmbuildError, match="ended") as lost:
            there(body(), Chat)
        assert lost.value.code == "MM872"
        assert result(body(), Chat, there) == whole
    finally:
        preparers.close()


def test_processes_end_with_a_server_that_is_killed() -> None:
    script = (
        "import sys, time\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_preparation import SETTING, Preparers\n"
        "if __name__ == '__main__':\n"
        "    preparers = Preparers(SETTING, 1)\n"
        "    preparers.start()\n"
        "    print(*[job for job in [preparers._pool.submit(__import__('os').getpid).result()]], flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        watch = os.pidfd_open(pid)
        server.kill()
        assert select.select([watch], [], [], 240)[0], "the process goes on without its server"
        os.close(watch)


def test_a_machine_without_spare_cores_gets_no_processes(monkeypatch) -> None:
    for cores, count in ((1, 0), (3, 0), (4, 1), (16, 4), (128, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert process_count() == count
