"""An OpenID provider on this machine, to try an application with: any user name will do."""

import os
import threading

from coatcheck.testing import RegisteredClient, running_authorization_server

SHOP = RegisteredClient(client_id="shop", client_secret="known-to-everybody")

with running_authorization_server(port=int(os.environ.get("PORT", "9000")), clients=[SHOP]) as provider:
    print(f"export ISSUER={provider.issuer} CLIENT_SECRET={SHOP.client_secret}", flush=True)
    threading.Event().wait()
