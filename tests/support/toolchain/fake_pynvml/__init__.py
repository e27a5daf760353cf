"""Machines with GPUs: a stand-in for pynvml that knows those of the variable FAKE_GPUS."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base import gpu

SITE = Path(__file__).parent / "site"
H200: dict[str, Any] = {"uuid": "GPU-aaaa", "name": "NVIDIA H200", "cap": [9, 0], "mib": 143771}
A10: dict[str, Any] = {"uuid": "GPU-bbbb", "name": "NVIDIA A10", "cap": [8, 6], "mib": 23028}


def variables(*gpus: dict[str, Any], fault: str = "") -> dict[str, str]:
    """Variables for a process that sees ``gpus``; ``fault``: see ``site/pynvml.py``."""
    paths = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "FAKE_GPUS": json.dumps({"driver": "580.95.05", "fault": fault, "gpus": gpus}),
    }


def install(monkeypatch: pytest.MonkeyPatch, *gpus: dict[str, Any], fault: str = "") -> None:
    """This process and its children see ``gpus`` from now on, and none are hidden."""
    for name, value in variables(*gpus, fault=fault).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(str(SITE))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    gpu.gpus.cache_clear()
