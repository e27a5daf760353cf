"""Imports Ray on demand and connects to a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.optional_packages import install_hint

_OBJECT_STORE = 80 << 20
"""Size of the object store of a local Ray, bytes. Artifacts are never passed through it."""

_HTTP2_HEADER, _HTTP2_SETTINGS = 9, 4
_HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _HTTP2_SETTINGS, 0, 0, 0, 0, 0))
"""A frame header has 9 bytes, the fourth is its type. A client first sends a fixed text and empty settings."""

_PRINTS = "print_to_stdstream"

_SECONDS = 5.0
"""Timeout for a first answer of a cluster."""


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Provide Ray's module, connected.

    Args:
        address: ``host:port`` or ``auto`` for a cluster of which this machine is a node; None means ``$RAY_ADDRESS``,
            otherwise a local Ray, which is stopped on exit. If this process is already connected, that connection is
            used and left open.

    Raises:
        MmbuildError: MM840, Ray is not installed; MM841, the cluster cannot be reached or Ray cannot be started.
    """
    ray = _import()
    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    _check(where)
    with _silent():
        try:
            ray.init(address=where, log_to_driver=False, logging_level="ERROR", **_own(where))
        except Exception as error:  # Ray raises many types
            ray.shutdown()
            raise _unreachable(where, " ".join(str(error).split())[:300]) from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Ray from printing node events to standard output, which is for data; lost nodes are reported as events.

    Ray has no option for this. If a version names the function differently, it prints.
    """
    from ray._private import worker

    usual = getattr(worker, _PRINTS, None)
    if usual is not None:
        setattr(worker, _PRINTS, lambda *_, **__: None)
    try:
        yield
    finally:
        if usual is not None:
            setattr(worker, _PRINTS, usual)


def _import() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # avoids a deprecation warning
    try:
        import ray
    except ImportError as error:
        raise MmbuildError(
            f"`--executor ray` needs Ray, which cannot be imported ({error})",
            code="MM840",
            hint=f"{install_hint('ray')} installs it; use the version of the cluster's nodes",
        ) from error
    return ray


def _own(where: str) -> dict[str, Any]:
    """Return the options for starting a local Ray."""
    if where != "local":
        return {}
    from mmbuild.base import gpu
    from mmbuild.core.execution.resources import machine_cores, machine_memory

    gpus = len(gpu.visible_gpus() or ())
    return {
        "num_cpus": machine_cores(),
        "num_gpus": gpus,
        "resources": {f"sm{gpu.first_sm()}": gpus} if gpus else {},
        "_memory": machine_memory(),  # estimates are compared with all of it, as without Ray
        "object_store_memory": _OBJECT_STORE,
        "include_dashboard": False,
    }


def _check(where: str) -> None:
    """Check an address first: Ray waits a minute for a closed port, and forever for another program's port."""
    if "://" in where:
        raise _unreachable(where, "Ray's client protocol does not support streams of messages")
    name, colon, port = where.rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((name.strip("[]"), int(port)), _SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS", "0") not in ("", "0") or _speaks_http2(connection)
    except (OSError, ValueError) as error:
        raise _unreachable(where, str(error)) from error
    if not speaks:
        raise _unreachable(where, "the server there is not a Ray head (its dashboard uses another port)")


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether the server speaks HTTP/2, as gRPC does: its first frame is SETTINGS (RFC 9113, 3.4)."""
    connection.settimeout(_SECONDS)
    connection.sendall(_HTTP2_BEGIN)
    answer = b""
    while len(answer) < _HTTP2_HEADER and (part := connection.recv(_HTTP2_HEADER - len(answer))):
        answer += part
    return len(answer) == _HTTP2_HEADER and answer[3] == _HTTP2_SETTINGS


def _unreachable(where: str, reason: str) -> MmbuildError:
    return MmbuildError(
        f"cannot connect to Ray at `{where}`: {reason}",
        code="MM841",
        hint="run mmbuild on a node of the cluster, with `--address auto` or the head's HOST:PORT (usually 6379);"
        " without `--address` a local Ray is started for this run",
    )
