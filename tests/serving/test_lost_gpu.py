"""After some errors CUDA is lost to a process, after others it is not."""

from __future__ import annotations

import pytest
import torch

from mmbuild.serving.lost_gpu import lost_gpu


def fails() -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")


def test_a_gpu_that_fails_again_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    error = lost_gpu("cuda")
    assert error is not None
    assert error.code == "MM872"
    assert error.message.endswith("CUDA error: an illegal memory access was encountered")


def test_a_gpu_that_answers_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert lost_gpu("cuda") is None


def test_a_cpu_is_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    assert lost_gpu("cpu") is None
