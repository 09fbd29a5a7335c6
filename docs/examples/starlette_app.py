"""Without FastAPI: a page of an ASGI application, a call that the page makes, and a call of our own with its token."""

import os
from html import escape

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from coatcheck import BFF, Client, api_user, page_user

bff = BFF(
    Client(issuer=os.environ["ISSUER"], client_id="shop", client_secret=os.environ["CLIENT_SECRET"]),
    public_url=os.environ.get("PUBLIC_URL", "http://localhost:8000"),
)


async def welcome(request: Request) -> HTMLResponse:
    user = await page_user(request.scope)  # whoever is not logged in goes to the login, and comes back
    return HTMLResponse(f"<h1>Welcome, {escape(user.name)}</h1>")


async def orders(request: Request) -> JSONResponse:
    user = await api_user(request.scope)  # 403 without the X-CSRF header, 401 without a login
    auth = bff.tokens.auth(token="user", user=user)
    async with httpx2.AsyncClient(base_url=os.environ["ORDERS_URL"], auth=auth) as http:
        return JSONResponse((await http.get("/orders")).json())


app = bff.wrap(Starlette(routes=[Route("/", welcome), Route("/api/orders", orders)]))
