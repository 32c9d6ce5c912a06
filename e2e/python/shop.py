"""What the Python shops have in common: what they sell, and for how much."""

import json
import socket
import sys

from x402.extensions.bazaar import OutputConfig, bazaar_resource_server_extension, declare_discovery_extension
from x402.extensions.builder_code import (
    BUILDER_CODE,
    builder_code_resource_server_extension,
    declare_builder_code_extension,
)
from x402.extensions.eip2612_gas_sponsoring import declare_eip2612_gas_sponsoring_extension
from x402.extensions.erc20_approval_gas_sponsoring import declare_erc20_approval_gas_sponsoring_extension
from x402.extensions.payment_identifier import (
    PAYMENT_IDENTIFIER,
    declare_payment_identifier_extension,
    payment_identifier_resource_server_extension,
)
from x402.mechanisms.evm.exact.server import ExactEvmScheme
from x402.mechanisms.evm.upto.server import UptoEvmScheme

NETWORK = "eip155:84532"
# What a shop charges under `upto`, of the 10000 that it asks permission for.
CHARGED = "4000"
GOODS = {"weather": "sunny"}

# `{facilitator, payTo, asset, ways, builderCode, buyers}`, as the tests say it.
order = json.loads(sys.argv[1])


def sells(server):
    """The server, able to sell in every way that the package knows."""
    server.register(NETWORK, ExactEvmScheme())
    server.register(NETWORK, UptoEvmScheme())
    server.register_extension(bazaar_resource_server_extension)
    server.register_extension(builder_code_resource_server_extension)
    server.register_extension(payment_identifier_resource_server_extension)
    return server


def routes():
    """The routes of the ways that the facilitator serves."""
    asset = order["asset"]
    extra = {"name": asset["name"], "version": asset["version"], "assetTransferMethod": "permit2"}
    by_permit = {"asset": asset["address"], "amount": "10000", "extra": extra}
    sponsored = declare_eip2612_gas_sponsoring_extension()
    approved = declare_erc20_approval_gas_sponsoring_extension()
    identifier = {PAYMENT_IDENTIFIER: declare_payment_identifier_extension(required=True)}
    builder = {BUILDER_CODE: declare_builder_code_extension(order["builderCode"])}
    discovery = declare_discovery_extension(
        input={"city": "Kiel"},
        input_schema={"properties": {"city": {"type": "string"}}},
        output=OutputConfig(example=GOODS),
    )
    by_authorization = {"scheme": "exact", "price": "$0.01"}
    every = {
        "eip3009": ("GET /v2/exact/eip3009", by_authorization, None),
        "permit2": ("GET /v2/exact/permit2", {"scheme": "exact", "price": by_permit}, None),
        "upto": ("GET /v2/upto/permit2", {"scheme": "upto", "price": by_permit}, None),
        "eip2612 for exact": ("GET /v2/exact/eip2612", {"scheme": "exact", "price": by_permit}, sponsored),
        "eip2612 for upto": ("GET /v2/upto/eip2612", {"scheme": "upto", "price": by_permit}, sponsored),
        "approval for exact": ("GET /v2/exact/erc20approval", {"scheme": "exact", "price": by_permit}, approved),
        "approval for upto": ("GET /v2/upto/erc20approval", {"scheme": "upto", "price": by_permit}, approved),
        PAYMENT_IDENTIFIER: ("GET /v2/exact/identifier", by_authorization, identifier),
        BUILDER_CODE: ("GET /v2/exact/builder", by_authorization, builder),
    }
    served = [every[way] for way in order["ways"] if way in every]
    if "bazaar" in order["ways"]:
        served += [(f"GET /v2/exact/bazaar{buyer}", by_authorization, discovery) for buyer in range(order["buyers"])]
    return {
        route: {
            "accepts": {**terms, "network": NETWORK, "payTo": order["payTo"]},
            **({"extensions": extensions} if extensions else {}),
        }
        for route, terms, extensions in served
    }


def open_door():
    """A listening socket on a free port, so that nobody can take the port in between."""
    door = socket.create_server(("127.0.0.1", 0))
    return door, f"http://127.0.0.1:{door.getsockname()[1]}"


def opened(url):
    """Tells the tests where the shop is."""
    print(json.dumps({"url": url}), flush=True)
