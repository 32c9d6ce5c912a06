"""What the Python shops have in common: what they sell, and for how much."""

import json
import socket
import sys

NETWORK = "eip155:84532"
# What a shop charges under `upto`, of the 10000 that it asks permission for.
CHARGED = "4000"
GOODS = {"weather": "sunny"}

# `{facilitator, payTo, asset, ways}`, as the tests say it.
order = json.loads(sys.argv[1])


def routes():
    """The routes of the ways that the facilitator serves."""
    asset = order["asset"]
    extra = {"name": asset["name"], "version": asset["version"], "assetTransferMethod": "permit2"}
    by_permit = {"asset": asset["address"], "amount": "10000", "extra": extra}
    every = {
        "eip3009": ("GET /v2/exact/eip3009", {"scheme": "exact", "price": "$0.01"}),
        "permit2": ("GET /v2/exact/permit2", {"scheme": "exact", "price": by_permit}),
        "upto": ("GET /v2/upto/permit2", {"scheme": "upto", "price": by_permit}),
    }
    served = [every[way] for way in order["ways"] if way in every]
    return {
        route: {"accepts": {**terms, "network": NETWORK, "payTo": order["payTo"]}} for route, terms in served
    }


def open_door():
    """A listening socket on a free port, so that nobody can take the port in between."""
    door = socket.create_server(("127.0.0.1", 0))
    return door, f"http://127.0.0.1:{door.getsockname()[1]}"


def opened(url):
    """Tells the tests where the shop is."""
    print(json.dumps({"url": url}), flush=True)
