"""Which metadata is believed: that of the configured issuer, byte for byte, and only over safe URLs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import CoatcheckError, ConfigurationError, InvalidMetadata, TransportError
from coatcheck.oauth import Client, Metadata, Request, Response, discover, metadata_urls, parse_metadata
from coatcheck.oauth.client import ENDPOINTS
from coatcheck.oauth.metadata import MAX_METADATA_BYTES
from tests.oauth.samples import CLIENT, ISSUER, answer

DOCUMENT: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
    "end_session_endpoint": f"{ISSUER}/logout",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "userinfo_endpoint": f"{ISSUER}/userinfo",
}


def parsed(client: Client = CLIENT, /, **changes: Any) -> Metadata:
    return parse_metadata(answer({**DOCUMENT, **changes}), client)


def exchange(client: Client, *answers: Response) -> tuple[list[Request], Metadata]:
    """Drive `discover` by hand."""
    flow, sent, waiting = discover(client), list[Request](), list(answers)
    request = next(flow)
    while True:
        sent.append(request)
        try:
            request = flow.send(waiting.pop(0))
        except StopIteration as done:
            metadata: Metadata = done.value
            return sent, metadata


@pytest.mark.spec("MET-09")
@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://idp.example.com",
            (
                "https://idp.example.com/.well-known/openid-configuration",
                "https://idp.example.com/.well-known/oauth-authorization-server",
            ),
        ),
        (
            "https://idp.example.com/",
            (
                "https://idp.example.com/.well-known/openid-configuration",
                "https://idp.example.com/.well-known/oauth-authorization-server",
            ),
        ),
        (
            "https://idp.example.com:8443/realms/shop",
            (
                "https://idp.example.com:8443/realms/shop/.well-known/openid-configuration",
                "https://idp.example.com:8443/.well-known/oauth-authorization-server/realms/shop",
            ),
        ),
        (
            "https://idp.example.com/oauth2/default/",
            (
                "https://idp.example.com/oauth2/default/.well-known/openid-configuration",
                "https://idp.example.com/.well-known/oauth-authorization-server/oauth2/default",
            ),
        ),
    ],
)
def test_both_well_known_forms_without_doubled_slashes(issuer: str, urls: tuple[str, ...]) -> None:
    assert metadata_urls(issuer) == urls


@pytest.mark.spec("MET-09")
def test_discovery_asks_the_openid_form_first_and_stops_there() -> None:
    sent, metadata = exchange(CLIENT, answer(DOCUMENT))
    assert [request.url for request in sent] == [f"{ISSUER}/.well-known/openid-configuration"]
    assert sent[0].method == "GET"
    assert metadata.token_endpoint == f"{ISSUER}/token"


@pytest.mark.spec("MET-09")
def test_discovery_falls_back_on_404() -> None:
    sent, metadata = exchange(CLIENT, Response(404), answer(DOCUMENT))
    assert [request.url for request in sent] == list(metadata_urls(ISSUER))
    assert metadata.issuer == ISSUER


def test_discovery_that_finds_nothing_names_what_it_tried() -> None:
    with pytest.raises(InvalidMetadata) as caught:
        exchange(CLIENT, Response(404), Response(404))
    for url in metadata_urls(ISSUER):
        assert url in str(caught.value)


@pytest.mark.spec("MET-05", "MET-08")
@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 400, 401, 403, 410])
def test_other_answers_end_discovery(status: int) -> None:
    redirect = Response(status, {"location": "https://evil.example/metadata"}, json.dumps(DOCUMENT).encode())
    with pytest.raises(InvalidMetadata, match=str(status)):
        exchange(CLIENT, redirect, answer(DOCUMENT))


@pytest.mark.spec("MET-08")
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_outage_is_not_a_verdict_and_not_a_reason_to_ask_elsewhere(status: int) -> None:
    with pytest.raises(TransportError) as caught:
        exchange(CLIENT, answer(DOCUMENT, status, {"retry-after": "7"}), answer(DOCUMENT))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 7


@pytest.mark.spec("MET-01")
@pytest.mark.parametrize(
    "stated",
    [
        f"{ISSUER}/",
        "https://IDP.example.com",
        "https://idp.example.com:443",
        "http://idp.example.com",
        "https://idp.example.com.evil.example",
        "https://idp.example.com%2F",
        "https://xn--idp-example-com",
        "https://login.microsoftonline.com/{tenantid}/v2.0",
        "",
        None,
        42,
        [ISSUER],
    ],
)
def test_issuer_is_compared_byte_for_byte(stated: object) -> None:
    with pytest.raises(InvalidMetadata, match="identical"):
        parsed(issuer=stated)


@pytest.mark.spec("MET-01")
def test_issuer_with_slash_is_another_issuer() -> None:
    with_slash = replace(CLIENT, issuer=f"{ISSUER}/")
    with pytest.raises(InvalidMetadata):
        parsed(with_slash)
    assert parsed(with_slash, issuer=f"{ISSUER}/").issuer == f"{ISSUER}/"


@pytest.mark.spec("MET-01")
def test_metadata_without_issuer_is_refused() -> None:
    with pytest.raises(InvalidMetadata, match="None"):
        parse_metadata(answer({name: value for name, value in DOCUMENT.items() if name != "issuer"}), CLIENT)


@pytest.mark.spec("MET-02")
@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com/x",
        "http://localhost/x",
        "http://127.0.0.1/x",
        "https://user:pw@idp.example.com/x",
        "https://idp.example.com/x#fragment",
        "javascript:alert(1)",
        "//idp.example.com/x",
        "/x",
        "https://idp.example.com/\r\nx",
        "https://idp.example.com\\x",
        "",
        42,
        ["https://idp.example.com/x"],
    ],
)
def test_poisoned_endpoints_are_refused(name: str, url: object) -> None:
    with pytest.raises(InvalidMetadata, match=name):
        parsed(**{name: url})


@pytest.mark.spec("MET-02")
def test_http_endpoints_only_for_an_issuer_on_loopback_and_only_on_loopback() -> None:
    local = replace(CLIENT, issuer="http://localhost:9000")
    urls = {name: f"http://127.0.0.1:9000/{name}" for name in ENDPOINTS}
    assert parsed(local, issuer=local.issuer, **urls).token_endpoint == "http://127.0.0.1:9000/token_endpoint"
    with pytest.raises(InvalidMetadata, match="must be https"):
        parsed(local, issuer=local.issuer, **{**urls, "token_endpoint": "http://10.0.0.1/token"})


def test_endpoints_may_have_a_query_and_stand_on_other_hosts() -> None:
    metadata = parsed(authorization_endpoint="https://login.example.net/authorize?policy=a")
    assert metadata.authorization_endpoint == "https://login.example.net/authorize?policy=a"


def test_token_endpoint_is_required_the_others_are_not() -> None:
    with pytest.raises(InvalidMetadata, match="token_endpoint"):
        parse_metadata(answer({"issuer": ISSUER}), CLIENT)
    bare = parse_metadata(answer({"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"}), CLIENT)
    assert bare == Metadata(issuer=ISSUER, token_endpoint=f"{ISSUER}/token")


def test_configured_endpoints_replace_and_complete_the_metadata() -> None:
    client = replace(
        CLIENT,
        endpoints={
            "end_session_endpoint": "https://shop.example.com/logout",
            "token_endpoint": "https://internal.example.com/token",
        },
    )
    document = {name: value for name, value in DOCUMENT.items() if name != "end_session_endpoint"}
    metadata = parse_metadata(answer({**document, "token_endpoint": "http://unsafe.example.com"}), client)
    assert metadata.end_session_endpoint == "https://shop.example.com/logout"
    assert metadata.token_endpoint == "https://internal.example.com/token"
    assert metadata.jwks_uri == f"{ISSUER}/jwks"


def test_lists_and_flags_are_read_and_silence_is_kept_apart_from_an_empty_list() -> None:
    silent = parsed()
    assert silent.token_endpoint_auth_methods_supported is None
    assert silent.code_challenge_methods_supported is None
    assert silent.authorization_response_iss_parameter_supported is False
    spoken = parsed(
        token_endpoint_auth_methods_supported=[],
        code_challenge_methods_supported=["S256"],
        authorization_response_iss_parameter_supported=True,
    )
    assert spoken.token_endpoint_auth_methods_supported == ()
    assert spoken.code_challenge_methods_supported == ("S256",)
    assert spoken.authorization_response_iss_parameter_supported is True


@pytest.mark.spec("MET-08")
@pytest.mark.parametrize(
    "change",
    [
        {"code_challenge_methods_supported": "S256"},
        {"code_challenge_methods_supported": [256]},
        {"token_endpoint_auth_methods_supported": {"client_secret_basic": True}},
        {"id_token_signing_alg_values_supported": 1},
        {"authorization_response_iss_parameter_supported": "true"},
        {"authorization_response_iss_parameter_supported": None},
        {"authorization_response_iss_parameter_supported": 1},
    ],
)
def test_malformed_members_are_refused_not_guessed(change: dict[str, object]) -> None:
    with pytest.raises(InvalidMetadata, match=next(iter(change))):
        parsed(**change)


@pytest.mark.spec("MET-08")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        b"[]",
        b"null",
        b'"https://idp.example.com"',
        b'{"issuer": "https://idp.example.com", "issuer": "https://idp.example.com"}',
        b'{"issuer": NaN}',
        b"[" * 100_000,
        b"\xff\xfe{}",
        b'{"issuer": "' + b"a" * MAX_METADATA_BYTES + b'"}',
    ],
)
def test_documents_that_are_no_json_object_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidMetadata, match="cannot be read"):
        parse_metadata(answer(body), CLIENT)


@pytest.mark.spec("MET-03")
def test_only_the_configured_issuer_is_ever_asked() -> None:
    """No argument of `discover` comes from a request: a foreign `iss` cannot make us fetch anything."""
    flow = discover(CLIENT)
    assert next(flow).url.startswith(f"{ISSUER}/")
    with pytest.raises(InvalidMetadata):
        flow.send(answer({**DOCUMENT, "issuer": "https://evil.example"}))


@pytest.mark.spec("MET-04")
def test_there_is_no_setting_that_turns_a_check_of_the_server_off() -> None:
    names = set(Client.__dataclass_fields__)
    assert not {name for name in names if "verify" in name or "insecure" in name or "tls" in name}
    with pytest.raises(ConfigurationError):
        replace(CLIENT, endpoints={"jwks_uri": "http://idp.example.com/jwks"})


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.spec("MET-02", "MET-08")
@given(st.dictionaries(st.sampled_from([*DOCUMENT, *Metadata.__dataclass_fields__]), _json_values))
def test_whatever_stands_in_a_document_it_is_believed_whole_or_refused(changes: dict[str, Any]) -> None:
    try:
        metadata = parsed(**changes)
    except CoatcheckError as error:
        assert isinstance(error, InvalidMetadata)
        return
    assert metadata.issuer == ISSUER
    for name in ENDPOINTS:
        url = getattr(metadata, name)
        assert url is None or url.startswith("https://")
