"""Sealed values open with the right key, in the right place, unchanged; otherwise not at all."""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coatcheck
from coatcheck import base64url
from coatcheck.errors import ConfigurationError, SealBroken, UnknownSealKey
from coatcheck.sessions import KeyRing, new_key, seal
from coatcheck.sessions.seal import framed
from tests.sessions.samples import KEY, RING

SALT_AND_NONCE = 16 + 12


def head_length(ring_key: str) -> int:
    """Bytes of an envelope before the salt."""
    return 2 + len(ring_key.split(".")[1])


def test_a_sealed_value_opens_to_what_was_sealed() -> None:
    sealed = RING.seal(b"the tokens", purpose="session", aad=[b"row"])
    assert b"the tokens" not in sealed
    assert RING.open(sealed, purpose="session", aad=[b"row"]) == b"the tokens"


def test_the_envelope_is_as_documented() -> None:
    kid = KEY.split(".")[1].encode()
    sealed = RING.seal(b"12345", purpose="session")
    assert sealed[0] == 1
    assert sealed[1] == len(kid)
    assert sealed[2:].startswith(kid)
    assert len(sealed) == head_length(KEY) + SALT_AND_NONCE + 5 + 16


@pytest.mark.spec("STO-01", "STO-08")
def test_any_changed_bit_breaks_the_seal() -> None:
    sealed = RING.seal(b"the tokens", purpose="session")
    for position in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[position] ^= 1 << bit
            with pytest.raises((SealBroken, UnknownSealKey)):
                RING.open(bytes(changed), purpose="session")


@pytest.mark.spec("STO-01")
def test_every_length_of_a_cut_value_is_refused() -> None:
    sealed = RING.seal(b"the tokens", purpose="session")
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            RING.open(sealed[:length], purpose="session")


@pytest.mark.spec("STO-01")
def test_sealing_knows_one_cipher_and_it_is_authenticated() -> None:
    tree = ast.parse(Path(seal.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cryptography")
        for alias in node.names
    }
    assert imported == {"AESGCM", "HKDF", "SHA256", "InvalidTag"}


@pytest.mark.spec("STO-07")
def test_nothing_in_the_package_reads_objects_that_run_code() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "jsonpickle", "yaml", "_pickle"}
    found = []
    for path in Path(coatcheck.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names if alias.name.split(".")[0] in forbidden]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in forbidden:
                found.append(f"{path}: {node.module}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.append(f"{path}: {node.func.id}")
    assert found == []


@pytest.mark.spec("STO-08")
@settings(max_examples=300)
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: RING.seal(b"", purpose="p")[:20] + tail))
def test_forged_values_never_fail_in_another_way(forged: bytes) -> None:
    with pytest.raises((SealBroken, UnknownSealKey)):
        RING.open(forged, purpose="session")


@pytest.mark.spec("STO-08")
def test_a_newer_format_is_not_taken_for_ours() -> None:
    sealed = RING.seal(b"the tokens", purpose="session")
    with pytest.raises(SealBroken):
        RING.open(b"\x02" + sealed[1:], purpose="session")


@pytest.mark.spec("STO-02")
def test_salt_and_nonce_are_new_for_every_value() -> None:
    start = head_length(KEY)
    seen = {RING.seal(b"", purpose="session")[start : start + SALT_AND_NONCE] for _ in range(20_000)}
    assert len({both[:16] for both in seen}) == 20_000
    assert len({both[16:] for both in seen}) == 20_000


@pytest.mark.spec("STO-02")
def test_equal_plaintexts_look_different() -> None:
    first, second = (RING.seal(bytes(32), purpose="session")[-48:] for _ in range(2))
    assert first != second


@pytest.mark.spec("STO-03", "SES-11")
@pytest.mark.parametrize(
    ("purpose", "aad", "application"),
    [
        ("transaction", [b"row 1", b"claims"], "shop"),
        ("session", [b"row 2", b"claims"], "shop"),
        ("session", [b"row 1", b"tokens"], "shop"),
        ("session", [b"row 1", b"claims"], "admin"),
        ("session", [b"row 1", b"claims"], ""),
        ("session", [b"row 1"], "shop"),
        ("session", [b"row 1", b"claims", b""], "shop"),
        ("session", [], "shop"),
    ],
)
def test_a_value_that_was_moved_does_not_open(purpose: str, aad: list[bytes], application: str) -> None:
    sealed = RING.bound_to("shop").seal(b"claims", purpose="session", aad=[b"row 1", b"claims"])
    with pytest.raises(SealBroken):
        RING.bound_to(application).open(sealed, purpose=purpose, aad=aad)


@pytest.mark.spec("STO-03")
def test_the_kid_in_the_envelope_is_sealed_in_too() -> None:
    """A ring that lists one secret under two names must not open an envelope whose name was exchanged."""
    secret = KEY.split(".")[2]
    ring = KeyRing([f"ck1.aaaa.{secret}", f"ck1.bbbb.{secret}"])
    sealed = ring.seal(b"claims", purpose="session")
    assert sealed[2:6] == b"aaaa"
    with pytest.raises(SealBroken):
        ring.open(sealed.replace(b"aaaa", b"bbbb", 1), purpose="session")


@pytest.mark.spec("STO-04")
@pytest.mark.parametrize(
    "other", [[b"a", b"bc"], [b"abc"], [b"", b"abc"], [b"ab", b"c", b""], [b"c", b"ab"], [b"ab\x00\x00\x00\x01c"]]
)
def test_additional_data_cannot_be_shifted_between_parts(other: list[bytes]) -> None:
    sealed = RING.seal(b"claims", purpose="session", aad=[b"ab", b"c"])
    with pytest.raises(SealBroken):
        RING.open(sealed, purpose="session", aad=other)


@pytest.mark.spec("STO-04")
def test_application_and_purpose_cannot_be_shifted_into_each_other() -> None:
    sealed = RING.bound_to("ab").seal(b"claims", purpose="c")
    with pytest.raises(SealBroken):
        RING.bound_to("a").open(sealed, purpose="bc")
    assert RING.bound_to("ab").derive("c") != RING.bound_to("a").derive("bc")


PARTS = st.lists(st.binary(max_size=6) | st.sampled_from([b"", b"\x00\x00\x00\x01", b"\x00"]), max_size=5)


@pytest.mark.spec("STO-04")
@given(PARTS, PARTS)
def test_different_parts_never_frame_to_the_same_bytes(one: list[bytes], other: list[bytes]) -> None:
    assert (framed(one) == framed(other)) == (one == other)


@pytest.mark.spec("STO-05")
def test_keys_rotate_in_three_deploys() -> None:
    old, new = new_key(), new_key()
    old_only, appended, moved, dropped = (KeyRing(keys) for keys in ([old], [old, new], [new, old], [new]))
    under_old = old_only.seal(b"claims", purpose="session")
    # While the fleet rolls from one step to the next, nodes of both steps open what either of them sealed.
    for before, after in ((old_only, appended), (appended, moved)):
        for sealing, opening in ((before, after), (after, before)):
            assert opening.open(sealing.seal(b"x", purpose="session"), purpose="session") == b"x"
    assert moved.open(under_old, purpose="session") == b"claims"
    assert dropped.open(moved.seal(b"claims", purpose="session"), purpose="session") == b"claims"
    with pytest.raises(UnknownSealKey) as caught:
        dropped.open(under_old, purpose="session")
    assert caught.value.kid == old.split(".")[1]


def test_derived_keys_differ_by_purpose_application_and_ring() -> None:
    derived = [
        RING.derive("index"),
        RING.derive("lease"),
        RING.bound_to("shop").derive("index"),
        KeyRing([new_key()]).derive("index"),
    ]
    assert len(set(derived)) == 4
    assert {len(key) for key in derived} == {32}
    assert RING.derive("index") == derived[0]


@pytest.mark.spec("STO-05")
def test_nodes_in_the_middle_of_a_rotation_derive_common_keys_in_one_order() -> None:
    old, new = new_key(), new_key()
    before, appended, in_front, dropped = (
        KeyRing(keys).derive_all("lease") for keys in ([old], [old, new], [new, old], [new])
    )
    assert appended == in_front
    assert set(before) < set(appended) > set(dropped)
    assert before == (KeyRing([old]).derive("lease"),)
    assert not set(appended) & set(KeyRing([old, new]).derive_all("index"))
    assert not set(appended) & set(KeyRing([old, new]).bound_to("shop").derive_all("lease"))


@pytest.mark.spec("STO-06")
def test_new_keys_are_accepted_and_differ() -> None:
    keys = [new_key() for _ in range(500)]
    assert len({key.split(".")[2] for key in keys}) == 500
    KeyRing(keys[:1]).seal(b"", purpose="session")
    for key in keys:
        KeyRing([key])


def _key(raw: bytes) -> str:
    return f"ck1.k.{base64url.encode(raw)}"


WEAK_KEYS = {
    "a passphrase": "correct horse battery staple",
    "hexadecimal": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "no secret": "ck1.k.",
    "no kid": f"ck1..{base64url.encode(bytes(32))}",
    "of another version": KEY.replace("ck1", "ck2"),
    "too short": _key(bytes(range(7, 38))),
    "sixteen bytes": _key(bytes.fromhex("8d1f0a7bc4e25963f7a0b1c2d3e4f506")),
    "too long": _key(bytes(range(1, 67, 2))),
    "zeros": _key(bytes(32)),
    "a repetition": _key(bytes.fromhex("8d1f0a7bc4e25963") * 4),
    "counting": _key(bytes(range(32))),
    "counting in steps": _key(bytes(7 * i % 256 for i in range(32))),
    "a text of 32 characters": _key(b"Correct-Horse-Battery-Staple-42!"),
    "hexadecimal digits as text": _key(b"8d1f0a7bc4e25963f7a0b1c2d3e4f506"),
    "typed into the key's place": "ck1.k.our-shop-keeps-its-own-secret-key-in-a-sock",
    "the hash of a word": _key(sha256(b"password").digest()),
    "with a line end": KEY + "\n",
    "padded": KEY + "=",
}


@pytest.mark.spec("STO-06")
@pytest.mark.parametrize("name", WEAK_KEYS)
def test_a_key_that_can_be_guessed_is_refused(name: str) -> None:
    weak = WEAK_KEYS[name]
    with pytest.raises(ConfigurationError) as caught:
        KeyRing([KEY, weak])
    assert caught.value.path == "keys[1]"
    assert "coatcheck new-key" in str(caught.value)
    assert weak not in str(caught.value)
    assert weak.split(".")[-1].strip() == "" or weak.split(".")[-1].strip() not in str(caught.value)


def test_an_empty_ring_and_a_kid_for_two_keys_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one key"):
        KeyRing([])
    with pytest.raises(ConfigurationError, match="in a list"):
        KeyRing(KEY)
    kid = KEY.split(".")[1]
    with pytest.raises(ConfigurationError, match=f"{kid}.*twice"):
        KeyRing([KEY, f"ck1.{kid}.{new_key().split('.')[2]}"])


def test_a_ring_shows_its_kids_and_no_secret() -> None:
    assert KEY.split(".")[1] in repr(RING)
    assert KEY.split(".")[2] not in repr(RING)
