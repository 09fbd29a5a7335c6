"""What the audit log says of users' tokens: one line for each renewal, whoever waits for it, and for each refusal."""

from __future__ import annotations

from coatcheck.audit import audit, session_reference, user_reference
from coatcheck.tokens.values import User
from coatcheck.tokens.verdicts import NOT_SENT, Verdict


def token_renewed(user: User, *, client: str) -> None:
    """Say that a token of the registration *client* was renewed, in *user*'s name."""
    audit("token_renewed", client=client, **_references(user))


def token_renewal_failed(user: User, verdict: Verdict, *, client: str) -> None:
    """Say what came of a renewal instead. Where nothing was asked, because of an earlier failure, there is no line."""
    if verdict.code != NOT_SENT:
        audit(
            "token_renewal_failed",
            verdict=verdict.kind.value,
            reason=verdict.reason or verdict.code or None,
            client=client,
            **_references(user),
        )


def reuse_suspected(user: User, *, client: str, age: float) -> None:
    """
    Write a security event: a refresh token was refused that should have been good.

    Call it on `invalid_grant` to the newest refresh token that is stored, when it was sent once and no newer one
    appeared, unless the authorization server is known to keep refresh tokens: then it cannot tell that one is used
    twice. That is all that is known. The user or an administrator may have ended the grant, it may have reached its
    age, or somebody else has a copy of the token and used it first: who it was, and *age* (seconds since the token
    came), help to find out which in the log of the authorization server.

    RFC 9700 section 4.14.2.
    """
    audit("refresh_token_reuse_suspected", age=round(age), client=client, **_references(user))


def token_refused(api: str, *, user: User | None) -> None:
    """Say that *api*, a path of ours or an origin, has answered 401 to the token that a call of *user* carried."""
    audit("token_refused", api=api, **({} if user is None else _references(user)))


def _references(user: User) -> dict[str, str | None]:
    session = None if user.session is None else session_reference(user.session.session.id)
    return {"iss": user.iss, "session": session, "user": user_reference(user.iss, user.sub)}
