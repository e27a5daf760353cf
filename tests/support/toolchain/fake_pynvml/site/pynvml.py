"""As much of nvidia-ml-py as mmbuild calls, with NVML's spelling.

The variable FAKE_GPUS holds ``{"driver", "fault", "gpus": [{"uuid", "name", "cap", "mib"}]}``; ``cap`` and ``mib``
are null where the driver does not support the question. Faults: ``library``, ``lost``, ``hangs``.
"""
# ruff: noqa: N802 (NVML's names)

import json
import os
import time
from types import SimpleNamespace

# torch imports this too, in processes without the variable: they have no driver.
_FAKE = json.loads(os.environ.get("FAKE_GPUS", '{"fault": "library"}'))


class NVMLError(Exception):
    """Any answer but success."""


def _required(value):
    if value is None:
        raise NVMLError("Not Supported")
    return value


def nvmlInit():
    if _FAKE["fault"] == "hangs":
        time.sleep(600)
    if _FAKE["fault"] == "library":
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown():
    pass


def nvmlSystemGetDriverVersion():
    return _FAKE["driver"]


def nvmlDeviceGetCount():
    return len(_FAKE["gpus"])


def nvmlDeviceGetHandleByIndex(index):
    if _FAKE["fault"] == "lost":
        raise NVMLError("GPU is lost")
    return _FAKE["gpus"][index]


def nvmlDeviceGetUUID(handle):
    return handle["uuid"]


def nvmlDeviceGetName(handle):
    return handle["name"]


def nvmlDeviceGetCudaComputeCapability(handle):
    return tuple(_required(handle["cap"]))


def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(total=_required(handle["mib"]) << 20)
