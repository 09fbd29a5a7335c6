"""What `coatcheck check` says of the way to a store."""

from __future__ import annotations

import pytest

from coatcheck.gateway.impostors import may_meet_impostors
from coatcheck.stores.urls import StoreURL


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "sqlite:///var/lib/sessions.db",
        "redis://127.0.0.1",
        "redis://:s3cret@localhost:6379/1",
        "rediss://cache.internal",
        "valkeys://cache.internal",
        "postgresql://shop:s3cret@localhost/shop",
        "postgresql://[::1]:5432/shop",
        "postgresql:///shop",
        "postgresql:///shop?host=/var/run/postgresql",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/shop",
        "postgresql://db.internal/shop?sslmode=verify-full&sslrootcert=/etc/ssl/ca.pem",
    ],
)
def test_no_advice_where_nobody_is_in_between(url: str) -> None:
    assert may_meet_impostors(StoreURL.parse(url)) is None


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://:s3cret@cache.internal:6379/1", "use rediss://"),
        ("valkey://cache.internal?ssl_cert_reqs=none&password=s3cret", "use rediss://"),
        ("postgresql://shop:s3cret@db.internal/shop", "verify-full"),
        ("postgresql://shop:s3cret@db.internal/shop?sslmode=require", "verify-full"),
        ("postgresql://shop:s3cret@localhost,db.internal/shop", "verify-full"),
        ("postgresql:///shop?host=db.internal&password=s3cret", "verify-full"),
    ],
)
def test_advice_where_an_impostor_could_get_the_password(url: str, advice: str) -> None:
    said = may_meet_impostors(StoreURL.parse(url))
    assert said is not None and advice in said
    assert "s3cret" not in said
