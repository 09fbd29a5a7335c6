"""`/bff/session.js`: the module by which a page hears of its session's end. The same for everybody, and no secret."""

from __future__ import annotations

from importlib.resources import files

from coatcheck.bff.answers import Answer
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.own_headers import OURS


class SessionScript:
    """Answers with `session.js`, which lies beside this file and finds `/events` beside itself."""

    def __init__(self) -> None:
        body = files(__package__).joinpath("session.js").read_bytes()
        headers = (
            *OURS,
            (b"content-type", b"text/javascript; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        )
        self._answer = Answer(200, headers, body)

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Without looking at who asks."""
        return self._answer
