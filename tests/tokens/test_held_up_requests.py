"""A request with a cookie that was renewed long ago: it gets an error that ends nothing, and sends nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from coatcheck.errors import TokenUnavailable
from coatcheck.tokens import User
from tests.tokens.scene import LIFETIME, Browser, Scene


async def renewed_and_arrived(scene: Scene, browser: Browser) -> None:
    user = await browser.request()
    await scene.tokens.user_token(user)
    browser.receive(user.session)
    await browser.request()
    await asyncio.sleep(0.01)


@pytest.mark.spec("REF-02", "REF-11")
async def test_a_request_that_was_held_up_never_sends_the_refresh_token_that_was_spent() -> None:
    scene = Scene(cookies=True)
    browser = await scene.log_in()
    held_up: User = await browser.request()
    scene.clock.forward(LIFETIME)
    await renewed_and_arrived(scene, browser)
    scene.clock.forward(timedelta(minutes=2))
    with pytest.raises(TokenUnavailable, match="newer cookie"):
        await scene.tokens.user_token(held_up)
    assert scene.service.refreshes == 1
    scene.clock.forward(LIFETIME)
    await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 2
