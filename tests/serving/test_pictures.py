"""Pictures come from data: URLs, and from hosts that are allowed, at public addresses."""

from __future__ import annotations

import base64
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from PIL import Image

from mmbuild.models.images import open_picture
from mmbuild.serving.errors import ProtocolError
from mmbuild.serving.pictures import PicturePolicy, open_pictures, read_picture, require_count

CONTENT = b"\x89PNG not really" * 10


def refused(url: str, policy: PicturePolicy) -> str:
    with pytest.raises(ProtocolError) as error:
        read_picture(url, policy, "messages.0")
    assert (error.value.code, error.value.param) == ("MM875", "messages.0")
    return error.value.message


@pytest.fixture
def host():
    """A server on loopback: a picture, one that never ends, one that leads elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/elsewhere"):
                self.send_response(302)
                self.send_header("Location", "/picture.png?a=1")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(CONTENT)
                while self.path == "/endless":
                    self.wfile.write(CONTENT * 1000)
            except OSError:
                pass

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"pictures.example:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def policy(*, private: bool = True, **fields) -> PicturePolicy:
    return PicturePolicy(
        frozenset({"pictures.example"}),
        resolve=lambda *_: ["127.0.0.1"],
        allow_private=private,
        **fields,
    )


@pytest.mark.parametrize(
    "head",
    ["data:image/png;base64,", "DATA:;base64,", "data:image/png;x=y;BASE64,", "data:image/png; base64 ,"],
)
def test_data_urls(head) -> None:
    assert read_picture(head + base64.b64encode(CONTENT).decode(), PicturePolicy(), "") == CONTENT


def test_base64_may_have_lines_and_escapes_as_in_a_url() -> None:
    lines = base64.encodebytes(CONTENT * 50).decode()
    assert "\n" in lines.strip()
    assert read_picture("data:image/png;base64," + lines, PicturePolicy(), "") == CONTENT * 50
    quoted = quote(base64.b64encode(bytes(range(256))).decode(), safe="")
    assert "%2B" in quoted
    assert read_picture("data:image/png;base64," + quoted, PicturePolicy(), "") == bytes(range(256))


def test_a_data_url_that_is_too_large_is_not_decoded() -> None:
    url = "data:;base64," + base64.b64encode(bytes(2000)).decode()
    assert "larger than 1,000 bytes" in refused(url, PicturePolicy(most_bytes=1000))


@pytest.mark.parametrize(
    "url",
    ["", "file:///etc/passwd", "/etc/passwd", "ftp://x/y", "data:image/png", "data:;base64,*", "http://[x"],
)
def test_other_urls_are_refused(url) -> None:
    refused(url, policy())


def test_a_picture_of_an_allowed_host(host) -> None:
    assert read_picture(f"http://{host}/picture.png?a=1", policy(), "") == CONTENT


def test_hosts_are_not_allowed_by_default(host) -> None:
    assert "not fetched from `pictures.example`" in refused(f"http://{host}/", PicturePolicy())


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "0.0.0.0"])
def test_an_allowed_host_with_a_private_address_is_not_asked(address) -> None:
    chosen = PicturePolicy(frozenset({"pictures.example"}), resolve=lambda *_: [address])
    assert "not public" in refused("http://pictures.example/", chosen)


def test_redirects_are_not_followed(host) -> None:
    assert "status 302" in refused(f"http://{host}/elsewhere", policy())


def test_a_picture_without_an_end_is_given_up(host) -> None:
    assert "larger than" in refused(f"http://{host}/endless", policy(most_bytes=100_000))


def test_a_host_that_cannot_be_reached(host) -> None:
    port = host.partition(":")[2]
    assert "cannot be fetched" in refused(f"https://pictures.example:{port}/", policy(seconds=5))


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_the_picture_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ProtocolError, match="not a picture in one of these formats") as error:
        open_pictures([("messages.0", png(2, 2)), ("messages.1", b"no")], PicturePolicy())
    assert (error.value.code, error.value.param, error.value.status) == ("MM517", "messages.1", 400)
    assert "array" not in (error.value.hint or "")


def test_all_pictures_of_a_request_share_a_limit(monkeypatch) -> None:
    opened = []
    files = [(f"messages.{number}", png(10, 10)) for number in range(5)]
    monkeypatch.setattr(
        "mmbuild.serving.pictures.open_picture", lambda one: opened.append(one) or open_picture(one)
    )
    assert len(open_pictures(files, PicturePolicy(most_pixels=500))) == 5
    opened.clear()
    with pytest.raises(ProtocolError, match="more than 250 pixels together") as error:
        open_pictures(files, PicturePolicy(most_pixels=250))
    assert (error.value.code, error.value.status) == ("MM876", 413)
    assert len(opened) == 3, "the others are not opened"


def test_more_pictures_than_a_prompt_holds_are_refused() -> None:
    require_count(2, PicturePolicy(most=2))
    with pytest.raises(ProtocolError, match="3 pictures, but a prompt of this engine has room for 2"):
        require_count(3, PicturePolicy(most=2))
