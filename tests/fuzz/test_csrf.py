"""Which requests may use a session: header lines at random, against a table written once more."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.bff.csrf import CSRFRules, check_api, check_websocket, check_without_header, navigation, read_claims

ORIGIN = b"https://shop.example"
RULES = CSRFRules(origin=ORIGIN)
NAMES = (b"x-csrf", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
VALUES = (b"", b"1", b"0", b"null", ORIGIN, ORIGIN + b".evil.example", b"same-origin", b"same-site", b"cross-site")
LINES = st.tuples(
    st.sampled_from([*NAMES, *NAMES, b"X-CSRF", b"host"]), st.sampled_from([*VALUES, b"none", b"navigate", b"cors"])
)
HONEST = st.sampled_from([(b"x-csrf", b"1"), (b"sec-fetch-site", b"same-origin"), (b"origin", ORIGIN)])
METHODS = ("GET", "HEAD", "POST", "DELETE", "get")


@pytest.mark.spec("CSR-01", "CSR-02", "CSR-03")
@given(st.sampled_from(METHODS), st.lists(LINES | HONEST, max_size=5))
@example("POST", [(b"x-csrf", b"1"), (b"sec-fetch-site", b"same-origin"), (b"origin", ORIGIN)])
@example("GET", [(b"sec-fetch-mode", b"navigate"), (b"sec-fetch-site", b"none")])
@example("GET", [(b"sec-fetch-mode", b"navigate"), (b"sec-fetch-site", b"cross-site")])
def test_every_verdict_is_the_one_of_the_table(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    claims = read_claims(headers, RULES)
    header, origin, site, mode = ([value for other, value in headers if other == name] for name in NAMES)
    ours = site in ([], [b"same-origin"])
    own_origin = origin in ([], [ORIGIN])

    call = None if header == [b"1"] else "csrf_header_missing"
    assert check_api(claims, RULES) == (call if ours and own_origin else "cross_site")
    assert check_websocket(claims, RULES) == (None if ours and origin == [ORIGIN] else "cross_site")
    ours_or_typed = ours or site == [b"none"]
    silent = not site and not origin and call is not None
    proven = (ours_or_typed if method in ("GET", "HEAD") else ours) and own_origin
    open_route = ("csrf_header_missing" if silent else None) if proven else "cross_site"
    assert check_without_header(claims, RULES, method=method) == open_route
    page = method in ("GET", "HEAD") and (mode == [b"navigate"] or (not mode and not header))
    assert navigation(claims, method=method) == (("own" if ours_or_typed else "foreign") if page else "none")
