from __future__ import annotations

from datetime import timedelta

import pytest

from coatcheck.errors import (
    CoatcheckError,
    ConfigurationError,
    InvalidGrant,
    InvalidIDToken,
    InvalidTokenResponse,
    LeaseLost,
    LoginRequired,
    OAuthError,
    StoreUnavailable,
    TokenUnavailable,
    TransportError,
)
from coatcheck.tokens.verdicts import (
    Reach,
    Verdict,
    VerdictKind,
    judge,
    no_refresh_token,
    renewal_lost,
    store_unavailable,
)

MISCONFIGURED = ["invalid_client", "unauthorized_client", "invalid_scope", "invalid_target", "invalid_dpop_proof"]
NEEDS_USER = ["interaction_required", "login_required", "consent_required"]
TRANSIENT = ["temporarily_unavailable", "server_error", "slow_down", "something_new"]


@pytest.mark.spec("REF-12", "REF-13")
def test_only_invalid_grant_ends_a_session() -> None:
    verdict = judge(InvalidGrant("invalid_grant"), issuer="https://issuer.example")
    assert verdict.kind is VerdictKind.ENDED
    error = verdict.error(client="default")
    assert isinstance(error, LoginRequired)
    assert error.code == "session_ended"


@pytest.mark.spec("REF-13")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((OAuthError(code), VerdictKind.MISCONFIGURED) for code in MISCONFIGURED),
        *((OAuthError(code), VerdictKind.NEEDS_USER) for code in NEEDS_USER),
        *((OAuthError(code), VerdictKind.TRANSIENT) for code in TRANSIENT),
        (ConfigurationError("no key"), VerdictKind.MISCONFIGURED),
        (TransportError("no answer", sent=True), VerdictKind.TRANSIENT),
        (TransportError("no connection", sent=False), VerdictKind.TRANSIENT),
        (InvalidTokenResponse("no token in it"), VerdictKind.TRANSIENT),
        (InvalidIDToken("of yesterday"), VerdictKind.TRANSIENT),
    ],
    ids=str,
)
def test_everything_else_keeps_it(error: CoatcheckError, kind: VerdictKind) -> None:
    verdict = judge(error, issuer="https://issuer.example")
    assert verdict.kind is kind
    expected = LoginRequired if kind is VerdictKind.NEEDS_USER else TokenUnavailable
    raised = verdict.error(client="default")
    assert type(raised) is expected
    assert getattr(raised, "code", "") != "session_ended"


@pytest.mark.spec("REF-13", "REF-16")
@pytest.mark.parametrize(
    ("error", "reach"),
    [
        (TransportError("answered 500", sent=True), Reach.ISSUER),
        (InvalidTokenResponse("HTML"), Reach.ISSUER),
        (OAuthError("temporarily_unavailable"), Reach.ISSUER),
        (OAuthError("something_new", retry_after=timedelta(seconds=3)), Reach.ISSUER),
        (OAuthError("invalid_client", status=401), Reach.CLIENT),
        (ConfigurationError("no key"), Reach.CLIENT),
        (OAuthError("unauthorized_client"), Reach.GRANT_TYPE),
        (OAuthError("unsupported_grant_type"), Reach.GRANT_TYPE),
        *(
            (OAuthError(code), Reach.REQUEST)
            for code in (*NEEDS_USER, "invalid_scope", "invalid_target", "something_new")
        ),
        (InvalidGrant("invalid_grant"), Reach.REQUEST),
        (StoreUnavailable("down"), Reach.REQUEST),
        (LeaseLost("lost"), Reach.REQUEST),
        (TokenUnavailable("not now"), Reach.REQUEST),
    ],
    ids=str,
)
def test_a_failure_is_about_as_many_requests_as_it_can_be(error: CoatcheckError, reach: Reach) -> None:
    assert judge(error, issuer="https://issuer.example").reach is reach


@pytest.mark.spec("REF-12", "REF-13")
def test_an_answer_that_was_lost_ends_the_session_with_a_code_of_its_own() -> None:
    verdict = renewal_lost("https://issuer.example", "no answer within 10 s", client="default")
    error = verdict.error(client="default")
    assert verdict.kind is VerdictKind.ENDED
    assert isinstance(error, LoginRequired)
    assert error.code == "renewal_lost"


def test_an_answer_that_was_lost_for_another_registration_ends_no_session() -> None:
    error = renewal_lost("https://issuer.example", "no answer", client="other").error(client="other")
    assert getattr(error, "code", None) == "login_required"


def test_a_refusal_of_our_own_keeps_its_time_to_come_back() -> None:
    verdict = judge(TokenUnavailable("not before long", retry_after=timedelta(seconds=4)), issuer="i")
    assert (verdict.kind, verdict.retry_after, verdict.message) == (
        VerdictKind.TRANSIENT,
        timedelta(seconds=4),
        "not before long",
    )


def test_the_message_names_the_issuer_the_error_and_the_remedy() -> None:
    verdict = judge(OAuthError("invalid_client", "no such client"), issuer="https://issuer.example")
    assert verdict.message == (
        "https://issuer.example refused the token request: invalid_client: no such client; "
        "check client_id, client_secret and client_auth"
    )


def test_retry_after_reaches_the_caller() -> None:
    error = judge(TransportError("busy", sent=True, retry_after=timedelta(seconds=7)), issuer="i").error(
        client="default"
    )
    assert isinstance(error, TokenUnavailable)
    assert error.retry_after == timedelta(seconds=7)


def test_a_store_that_is_down_says_nothing_about_the_session() -> None:
    assert isinstance(store_unavailable(StoreUnavailable("down")).error(client="default"), StoreUnavailable)


def test_no_refresh_token_has_a_code_of_its_own() -> None:
    error = no_refresh_token("default").error(client="default")
    assert isinstance(error, LoginRequired)
    assert error.code == "token_expired_no_refresh_token"


def test_every_waiter_gets_an_exception_of_its_own() -> None:
    """One object raised by many would collect the tracebacks of all."""
    verdict = judge(OAuthError("invalid_client"), issuer="i")
    assert verdict.error(client="default") is not verdict.error(client="default")


def test_a_code_that_a_verdict_was_given_is_the_one_that_is_told() -> None:
    """What ended for another reason than the authorization server's word keeps that reason: it ends no session."""
    given = Verdict(VerdictKind.ENDED, "the store was emptied", code="login_required").error(client="default")
    assert getattr(given, "code", None) == "login_required"
