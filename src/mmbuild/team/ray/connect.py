"""Ray, imported where it is asked for, and a connection to a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.optional_packages import install_hint

_OBJECT_STORE = 80 << 20
"""Bytes for Ray's own objects, of a Ray that is started here. Artifacts never travel through it."""

_HTTP2_HEADER, _HTTP2_SETTINGS = 9, 4
_HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _HTTP2_SETTINGS, 0, 0, 0, 0, 0))
"""Bytes of a frame's header, with its type the fourth; what a client says first: a fixed text and empty settings."""

_PRINTS = "print_to_stdstream"

_SECONDS = 5.0
"""How long a cluster may take to answer at all."""


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray's module, connected.

    Args:
        address: ``host:port`` or ``auto`` of a cluster that this machine is a node of; None means ``$RAY_ADDRESS``,
            and without that a Ray of this machine alone, which is stopped on leaving. Where this process is
            connected already, that connection is used, and left as it is.

    Raises:
        MmbuildError: MM840 Ray is not installed, MM841 the cluster cannot be reached or Ray cannot be started.
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
        except Exception as error:  # whatever Ray raises; a KeyboardInterrupt is none
            ray.shutdown()
            raise _unreachable(where, " ".join(str(error).split())[:300]) from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Ray prints what happens to nodes on standard output, which is for data; lost nodes are told as events.

    There is no option for it, and a version that names the function otherwise prints.
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
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a coming change
    try:
        import ray
    except ImportError as error:
        raise MmbuildError(
            f"`--executor ray` needs Ray, which cannot be imported ({error})",
            code="MM840",
            hint=f"{install_hint('ray')} brings it, in the version of the cluster's nodes",
        ) from error
    return ray


def _own(where: str) -> dict[str, Any]:
    """Options of a Ray that is started here."""
    if where != "local":
        return {}
    from mmbuild.base import gpu
    from mmbuild.core.execution.resources import machine_cores, machine_memory

    gpus = len(gpu.visible_gpus() or ())
    return {
        "num_cpus": machine_cores(),
        "num_gpus": gpus,
        "resources": {f"sm{gpu.first_sm()}": gpus} if gpus else {},
        "_memory": machine_memory(),  # estimates are held against all of it, as without Ray
        "object_store_memory": _OBJECT_STORE,
        "include_dashboard": False,
    }


def _check(where: str) -> None:
    """Before Ray asks, which waits a minute for a port that nobody listens on, and for ever for another program's."""
    if "://" in where:
        raise _unreachable(where, "Ray's client protocol carries no streams of messages")
    name, colon, port = where.rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((name.strip("[]"), int(port)), _SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS", "0") not in ("", "0") or _speaks_http2(connection)
    except (OSError, ValueError) as error:
        raise _unreachable(where, str(error)) from error
    if not speaks:
        raise _unreachable(where, "what answers there is no head of Ray (its dashboard is another port)")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side does, as every server of gRPC: its first frame is SETTINGS (RFC 9113, 3.4)."""
    connection.settimeout(_SECONDS)
    connection.sendall(_HTTP2_BEGIN)
    answer = b""
    while len(answer) < _HTTP2_HEADER and (part := connection.recv(_HTTP2_HEADER - len(answer))):
        answer += part
    return len(answer) == _HTTP2_HEADER and answer[3] == _HTTP2_SETTINGS


def _unreachable(where: str, why: str) -> MmbuildError:
    return MmbuildError(
        f"there is no Ray to use at `{where}`: {why}",
        code="MM841",
        hint="run mmbuild on a node of the cluster, with `--address auto` or the head's HOST:PORT (6379 mostly);"
        " without `--address` a Ray is started here for this run",
    )
