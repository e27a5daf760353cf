"""The environment of a worker: only the listed variables, so that a build does not depend on the shell."""

from __future__ import annotations

import os
from collections.abc import Mapping

_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "LIBRARY_PATH",
        "CPATH",
        "C_INCLUDE_PATH",
        "CPLUS_INCLUDE_PATH",
        "CC",
        "CXX",
        "CFLAGS",
        "CXXFLAGS",
        "VIRTUAL_ENV",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "PYTHONPATH",
        "PYTHONHASHSEED",
    }
)
_PREFIXES = (
    "LC_",
    "XDG_",
    "HF_",
    "HUGGINGFACE_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "TORCH",
    "PYTORCH_",
    "TRITON_",
    "MMBUILD_",
    "OMPI_",
    "PMIX_",
)
_HIDDEN = frozenset({"MMBUILD_REMOTE", "MMBUILD_SIGNING_KEY"})
"""Variables that may contain a password or key; no step needs them."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def listed_environment(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of ``source`` (default: this process's environment) that workers may see.

    Also makes torch detect GPUs through NVML: initializing CUDA in the fork server would make it unusable in
    forked children.
    """
    variables = os.environ if source is None else source
    listed = {name: value for name, value in variables.items() if _is_listed(name)}
    return {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **listed}


def _is_listed(name: str) -> bool:
    return name in _NAMES or (name.startswith(_PREFIXES) and name not in _HIDDEN)


def granted_environment(cores: int, gpus: tuple[str, ...]) -> dict[str, str]:
    """Return the variables for an action's granted ``cores`` and ``gpus``."""
    return {
        **dict.fromkeys(_THREADS, str(cores)),
        "MMBUILD_CORES": str(cores),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }
