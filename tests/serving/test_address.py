"""What prevents a server from listening is known without an engine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mmbuild.base.errors import UsageError
from mmbuild.serving.address import listener, read_key, require_key


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            listener("127.0.0.1", port, 1)
    assert caught.value.code == "MM873"
    assert caught.value.message == f"cannot listen at 127.0.0.1, port {port}: Address already in use"


def test_a_port_can_be_used_after_it_was_tried() -> None:
    first = listener("127.0.0.1", 0, 1)
    port = first.getsockname()[1]
    first.close()
    listener("127.0.0.1", port, 1).close()


def test_a_key_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the key") as caught:
        read_key(tmp_path / "key")
    assert caught.value.code == "MM879"


def test_without_a_key_only_this_host_can_connect() -> None:
    require_key("127.0.0.1", None)
    require_key("0.0.0.0", "secret")
    with pytest.raises(UsageError) as caught:
        require_key("0.0.0.0", None)
    assert caught.value.code == "MM879"
