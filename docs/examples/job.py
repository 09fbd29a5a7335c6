"""A job at night, beside the application of quickstart.py: it fetches the orders of a user whose browser is closed."""

import asyncio
import os
import sys

import httpx2
from quickstart import bff

from coatcheck import LoginRequired, StoreUnavailable, TokenUnavailable


async def main(sub: str) -> None:
    try:
        user = await bff.tokens.user(sub=sub)  # their session, as the application keeps it
        auth = bff.tokens.auth(token="user", user=user)
        async with httpx2.AsyncClient(base_url=os.environ["ORDERS_URL"], auth=auth) as http:
            response = await http.get("/orders")
            print(response.status_code, response.json())
    finally:
        await bff.aclose()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except LoginRequired as error:
        sys.exit(f"{sys.argv[1]} has to log in first: {error}")
    except (StoreUnavailable, TokenUnavailable) as error:
        sys.exit(f"try again later: {error}")
