"""Reading a form: one kind, small, whole, and every field that came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from coatcheck.bff.form import MAX_BYTES, SenderLeft, read_form
from coatcheck.bff.refusals import Refused

FORM = (b"content-type", b"application/x-www-form-urlencoded")


async def read(*pieces: bytes, headers: Sequence[tuple[bytes, bytes]] = (FORM,), left: bool = False) -> Any:
    """The fields of a body that comes in *pieces*; *left*: its sender leaves before the end."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.disconnect"} if left else {"type": "http.request"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    fields = await read_form(headers, receive)
    assert messages == []
    return fields


async def refused(*pieces: bytes, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        await read(*pieces, **more)
    return caught.value.diagnosis.code


async def test_fields_come_in_their_order_and_as_often_as_they_were_sent() -> None:
    assert await read(b"state=a&co", b"de=x%26y+z&state=b&empty=") == (
        ("state", "a"),
        ("code", "x&y z"),
        ("state", "b"),
        ("empty", ""),
    )
    assert await read() == ()


async def test_the_body_ends_where_its_sender_says() -> None:
    messages = [{"type": "http.request", "body": b"a=1"}, {"type": "http.request", "body": b"&b=2"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    assert await read_form([FORM], receive) == (("a", "1"),)
    assert len(messages) == 1


@pytest.mark.parametrize(
    "value",
    [
        b"application/x-www-form-urlencoded;charset=UTF-8",
        b"APPLICATION/X-WWW-FORM-URLENCODED",
        b" application/x-www-form-urlencoded ; a=b",
    ],
)
async def test_the_content_type_may_be_written_in_other_ways(value: bytes) -> None:
    assert await read(b"a=1", headers=[(b"accept", b"*/*"), (b"content-type", value)]) == (("a", "1"),)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"multipart/form-data")],
        [(b"content-type", b"application/x-www-form-urlencodedx")],
        [(b"x-content-type", FORM[1])],
        [FORM, FORM],
    ],
)
async def test_other_content_types_are_refused_unread(headers: list[tuple[bytes, bytes]]) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is read")

    with pytest.raises(Refused) as caught:
        await read_form(headers, receive)
    assert caught.value.diagnosis.code == "form_refused"


async def test_a_form_has_a_greatest_size() -> None:
    assert await read(b"a=" + b"x" * (MAX_BYTES - 2)) == (("a", "x" * (MAX_BYTES - 2)),)
    assert await read(b"a=", b"x" * (MAX_BYTES - 2)) == (("a", "x" * (MAX_BYTES - 2)),)
    with pytest.raises(Refused) as caught:
        await read_form([FORM], _endless)
    assert caught.value.diagnosis.code == "body_too_large"
    assert MAX_BYTES == 65_536


async def _endless() -> dict[str, Any]:
    return {"type": "http.request", "body": b"a=1&", "more_body": True}


async def test_a_form_has_a_greatest_number_of_fields() -> None:
    assert len(await read(b"&".join([b"a=b"] * 100))) == 100
    assert await refused(b"&".join([b"a=b"] * 101)) == "form_refused"


async def test_bytes_beyond_ascii_become_no_characters_that_were_meant() -> None:
    assert await read(b"a=\xe2\x82\xac") == (("a", "\ufffd" * 3),)


async def test_who_leaves_before_the_end_gets_no_answer() -> None:
    with pytest.raises(SenderLeft):
        await read(b"a=1", left=True)
