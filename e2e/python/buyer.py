"""A buyer with the x402 package and httpx or requests: `buyer.py httpx|requests`.

Orders come as lines on standard input, and each is answered by a line.
"""

import asyncio
import base64
import json
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import requests
from eth_abi import encode
from eth_account import Account
from x402 import x402Client, x402ClientSync
from x402.extensions.builder_code import BuilderCodeClientExtension
from x402.extensions.payment_identifier import append_payment_identifier_to_extensions
from x402.http.clients import wrapHttpxWithPayment, wrapRequestsWithPayment
from x402.mechanisms.evm.constants import ERC6492_MAGIC_VALUE
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC
from x402.mechanisms.evm.upto.client import UptoEvmScheme

NETWORK = "eip155:84532"
TIMEOUT_S = 60
ORDERS_AT_ONCE = 20


class WalletSigner(EthAccountSignerWithRPC):
    """A contract wallet that its owner signs for (ERC-1271); an undeployed one says how it comes to be (ERC-6492)."""

    def __init__(self, owner, rpc_url, wallet, creation):
        super().__init__(owner, rpc_url)
        self._wallet = wallet
        self._creation = creation

    @property
    def address(self):
        return self._wallet

    def sign_typed_data(self, *typed_data, **named):
        signature = super().sign_typed_data(*typed_data, **named)
        if not self._creation:
            return signature
        calldata = bytes.fromhex(self._creation["calldata"].removeprefix("0x"))
        parts = [self._creation["factory"], calldata, signature]
        return encode(["address", "bytes", "bytes"], parts) + ERC6492_MAGIC_VALUE


def signer_of(order):
    owner = Account.from_key(order["key"])
    if wallet := order.get("wallet"):
        return WalletSigner(owner, order["rpc"], wallet, order.get("creation"))
    return EthAccountSignerWithRPC(owner, order["rpc"])


def paying(client, order):
    """The client, able to pay in every way that the package knows, in both versions."""
    signer = signer_of(order)
    register_exact_evm_client(client, signer, NETWORK)
    client.register(NETWORK, UptoEvmScheme(signer))
    if code := order.get("builderCode"):
        client.register_extension(BuilderCodeClientExtension(code))
    if identifier := order.get("identifier"):
        client.on_before_payment_creation(
            lambda context: name_payment(context.payment_required.extensions, identifier)
        )
    return client


def name_payment(extensions, identifier):
    append_payment_identifier_to_extensions(extensions, identifier)


async def buy_with_httpx(order):
    async with wrapHttpxWithPayment(paying(x402Client(), order), timeout=TIMEOUT_S) as client:
        return answer_of(await client.get(order["url"]))


def buy_with_requests(order):
    with wrapRequestsWithPayment(requests.Session(), paying(x402ClientSync(), order)) as session:
        return answer_of(session.get(order["url"], timeout=TIMEOUT_S))


def answer_of(response):
    receipt = response.headers.get("PAYMENT-RESPONSE") or response.headers.get("X-PAYMENT-RESPONSE")
    demand = response.headers.get("PAYMENT-REQUIRED", "")
    return {
        "status": response.status_code,
        "body": response.text,
        "receipt": json.loads(base64.b64decode(receipt)) if receipt else None,
        "demand": base64.b64decode(demand).decode(),
    }


def answer(order, content):
    # One write for a line, since others answer at the same time.
    sys.stdout.write(json.dumps({"id": order["id"], **content}) + "\n")
    sys.stdout.flush()


async def take_with_httpx(line):
    order = json.loads(line)
    try:
        content = await buy_with_httpx(order)
    except Exception:  # Whatever went wrong is the answer.
        content = {"error": traceback.format_exc()}
    answer(order, content)


def take_with_requests(line):
    order = json.loads(line)
    try:
        content = buy_with_requests(order)
    except Exception:  # Whatever went wrong is the answer.
        content = {"error": traceback.format_exc()}
    answer(order, content)


async def serve_with_httpx():
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as orders:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            orders.create_task(take_with_httpx(line))


def serve_with_requests():
    with ThreadPoolExecutor(ORDERS_AT_ONCE) as pool:
        for line in sys.stdin:
            pool.submit(take_with_requests, line)


if __name__ == "__main__":
    if sys.argv[1] == "httpx":
        asyncio.run(serve_with_httpx())
    else:
        serve_with_requests()
