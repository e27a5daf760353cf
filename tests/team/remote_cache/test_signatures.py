"""If configured, entries need a signature by a trusted key, and no change to an entry passes."""

import base64
import json
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.errors import MmbuildError
from mmbuild.base.public_keys import public_bytes, public_text
from mmbuild.core.store.action_cache import Record
from mmbuild.team.remote_cache.records import Signature, entry_json, entry_text, parse_entry, signed_text
from mmbuild.team.remote_cache.signatures import is_signed, make_key, read_key, sign
from support.projects.machines import Machine
from support.steps.trivial import chain

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
records = st.builds(
    Record,
    key=digests,
    definition=digests,
    inputs=st.dictionaries(st.text("abc", min_size=1), digests, max_size=3),
    digest=digests,
    label=st.text(max_size=20).filter(lambda text: text.isprintable()),
    body=digests,
    size=st.integers(0, 1 << 40),
    seconds=st.floats(0, 1e6),
    memory=st.integers(0, 1 << 40),
    at=st.floats(0, 1e10),
    host=st.text("abc-.", max_size=10),
)


@pytest.fixture
def keys(tmp_path):
    """Three people: (path of the private key, public bytes)."""
    found = []
    for name in ("ann", "bob", "eve"):
        public = make_key(tmp_path / name)
        found.append((str(tmp_path / name), public_bytes(public)))
    return found


def rewritten(tmp_path, change):
    """Change every published entry, its signatures left as they are."""
    for path in (tmp_path / "shared" / "v1" / "actions").rglob("*.json"):
        entry = json.loads(path.read_bytes())
        change(entry)
        path.write_bytes(json.dumps(entry).encode())


def test_only_signed_results_are_used_if_signatures_are_required(one, other, keys):
    (private, public), _, _ = keys
    other.settings = {"require_signatures": True, "trusted_keys": (public,), "signing_key": private}
    one.apply(chain("r"))
    assert other.apply(chain("r")).ran == ("r/0", "r/1", "r/2")
    assert [notice.code for notice in other.notices] == ["MM823"], "told once, not for every entry"
    assert "is not signed" in other.notices[0].message
    third = Machine(other.root.parent / "third", url=one.url, settings=other.settings)
    assert third.apply(chain("r")).ran == (), "the other one put signed results in the place of those"
    assert third.notices == []


def test_a_key_that_is_not_trusted_is_reported(one, other, keys):
    (_, ann), _, (eve, _) = keys
    one.settings = {"signing_key": eve}
    other.settings = {"require_signatures": True, "trusted_keys": (ann,)}
    other.push = False
    one.apply(chain("r"))
    assert other.apply(chain("r")).ran == ("r/0", "r/1", "r/2")
    assert "is not signed by a trusted key" in other.notices[0].message


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(artifact="0" * 64),
        lambda entry: entry.update(reference=True),
        lambda entry: entry.update(seconds=entry["seconds"] + 1),
        lambda entry: entry.update(extra=1),
        lambda entry: entry["signatures"][0].update(signature=base64.b64encode(b"x" * 64).decode()),
        lambda entry: entry["signatures"][0].update(signature="no base64"),
        lambda entry: entry.update(signatures=[]),
    ],
)
def test_an_entry_that_was_changed_counts_as_not_signed(one, other, keys, tmp_path, change):
    (private, public), _, _ = keys
    one.settings = {"signing_key": private}
    other.settings = {"require_signatures": True, "trusted_keys": (public,)}
    other.push = False
    one.apply(chain("r", links=2))
    rewritten(tmp_path, change)
    assert other.apply(chain("r", links=2)).ran == ("r/0", "r/1")
    assert other.codes() == {"MM823"}


def test_who_must_see_signatures_publishes_none_without(one, keys):
    one.settings = {"require_signatures": True, "trusted_keys": (keys[0][1],)}
    assert one.apply(chain("r")).ok
    assert [notice.code for notice in one.notices] == ["MM824"]
    assert "there is no signing key" in one.notices[0].message


def test_an_unreadable_signing_key_is_reported_and_the_build_continues(one, tmp_path):
    (tmp_path / "key").write_text("no key")
    one.settings = {"signing_key": str(tmp_path / "key")}
    assert one.apply(chain("r")).ok
    assert one.codes() == {"MM825"}


@given(records, st.booleans())
def test_an_entry_reads_back_as_it_was_signed(record, reference):
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    entry = entry_json(record, reference=reference)
    text = entry_text(entry, (sign(signed_text(entry), key),))
    shared, read, signatures = parse_entry(text, record.key)
    assert (shared.record, shared.reference) == (record, reference)
    assert is_signed(signed_text(read), signatures, {key.public_key().public_bytes_raw()})


@given(records, st.data())
def test_a_damaged_entry_is_ignored_or_counts_as_unsigned(record, data):
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    entry = entry_json(record, reference=False)
    text = bytearray(entry_text(entry, (sign(signed_text(entry), key),)))
    place = data.draw(st.integers(0, len(text) - 2))
    text[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        _, read, signatures = parse_entry(bytes(text), record.key)
        signed = is_signed(signed_text(read), signatures, {key.public_key().public_bytes_raw()})
    except (ValueError, TypeError, KeyError):
        return
    assert not signed or read == entry


def test_keys_of_openssl_are_understood(tmp_path):
    made = tmp_path / "openssl.pem"
    words = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(made)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl that makes ed25519 keys")
    key = read_key(str(made))
    public = key.public_key().public_bytes_raw()
    assert public_bytes(public_text(public)) == public
    assert read_key(made.read_text()).public_key().public_bytes_raw() == public
    assert is_signed(b"text", [sign(b"text", key)], [public])
    assert not is_signed(b"other", [sign(b"text", key)], [public])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "ed25519:abc",
        "ed25519:" + "A" * 40,
        base64.b64encode(b"x" * 32).decode(),
        base64.b64encode(b"Ed" + b"x" * 40).decode(),  # a key of minisign
    ],
)
def test_an_invalid_public_key_is_refused(text):
    with pytest.raises(ValueError, match="not a public key"):
        public_bytes(text)
    assert not is_signed(b"text", [Signature(text, "")], [b"x" * 32])


@pytest.mark.parametrize("kind", ["x25519", "missing"])
def test_a_private_key_of_another_kind_is_refused_and_never_shown(tmp_path, kind):
    path = tmp_path / "key.pem"
    if kind == "x25519":
        done = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "x25519", "-out", str(path)],
            check=False,
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("there is no openssl")
    with pytest.raises(MmbuildError) as caught:
        read_key(path.read_text() if kind == "x25519" else str(path))
    assert caught.value.code == "MM825"
    assert "BEGIN" not in caught.value.message
