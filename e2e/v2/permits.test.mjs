// Buyers who pay by Permit2, with the official client and server: exact without an approval of their own, and upto.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme as ExactEvmClient } from "@x402/evm/exact/client";
import { ExactEvmScheme as ExactEvmServer } from "@x402/evm/exact/server";
import { UptoEvmScheme as UptoEvmClient } from "@x402/evm/upto/client";
import { UptoEvmScheme as UptoEvmServer } from "@x402/evm/upto/server";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import express from "express";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

import { serve, startTeller } from "../harness.mjs";

const NETWORK = "eip155:84532";
const ONE_CENT = 10_000n;
const SPONSORING = { eip2612GasSponsoring: { info: { description: "no approval needed", version: "1" }, schema: {} } };

describe("x402 v2 packages by Permit2", () => {
  let teller, shop, payTo, charged;

  before(async () => {
    teller = await startTeller();
    payTo = privateKeyToAccount(generatePrivateKey()).address;
    const resourceServer = new x402ResourceServer(new HTTPFacilitatorClient({ url: teller.url }))
      .register(NETWORK, new ExactEvmServer())
      .register(NETWORK, new UptoEvmServer());
    const { address: asset, name, version } = teller.devnet.asset;
    const offer = (scheme) => ({
      accepts: {
        scheme, network: NETWORK, payTo,
        price: { amount: String(ONE_CENT), asset, extra: { name, version, assetTransferMethod: "permit2" } },
      },
      description: "Weather",
      extensions: SPONSORING,
    });
    const app = express();
    app.use(paymentMiddleware({ "GET /exact": offer("exact"), "GET /upto": offer("upto") }, resourceServer));
    app.get("/exact", (_, response) => response.json({ weather: "sunny" }));
    app.get("/upto", (_, response) => {
      setSettlementOverrides(response, { amount: String(charged) });
      response.json({ weather: "sunny" });
    });
    shop = await serve(app);
  });

  after(async () => {
    await shop?.stop();
    await teller?.stop();
  });

  /** Buys once; the client signs whatever the shop's extensions ask for. */
  async function buy(path, account) {
    const options = { rpcUrl: teller.devnet.rpc };
    const pay = wrapFetchWithPaymentFromConfig(fetch, {
      schemes: [
        { network: NETWORK, client: new ExactEvmClient(account, options) },
        { network: NETWORK, client: new UptoEvmClient(account, options) },
      ],
    });
    const response = await pay(`${shop.url}${path}`);
    const header = response.headers.get("PAYMENT-RESPONSE");
    assert.ok(header, `no PAYMENT-RESPONSE with status ${response.status}`);
    return { response, receipt: decodePaymentResponseHeader(header) };
  }

  async function demandThatMoves(value, path, account) {
    const before = await teller.chain.balanceOf(payTo);
    const { response, receipt } = await buy(path, account);
    assert.equal(response.status, 200, JSON.stringify(receipt));
    assert.equal((await response.json()).weather, "sunny");
    assert.equal(receipt.success, true);
    assert.equal(await teller.chain.balanceOf(payTo) - before, value);
    return receipt;
  }

  it("sells for exactly one cent to a buyer without gas or an approval", async () => {
    const account = privateKeyToAccount(teller.devnet.payers[0]);
    const receipt = await demandThatMoves(ONE_CENT, "/exact", account);
    assert.deepEqual(await teller.chain.transfersIn(receipt.transaction, account.address, payTo), [ONE_CENT]);
  });

  it("charges what the shop says, up to one cent", async () => {
    charged = 4_000n;
    const account = privateKeyToAccount(teller.devnet.payers[1]);
    const receipt = await demandThatMoves(charged, "/upto", account);
    assert.equal(receipt.amount, "4000");
  });

  it("charges nothing without a transaction", async () => {
    charged = 0n;
    const account = privateKeyToAccount(teller.devnet.payers[2]);
    const receipt = await demandThatMoves(0n, "/upto", account);
    assert.equal(receipt.transaction, "");
  });

  it("refuses a shop that charges more than was allowed", async () => {
    charged = ONE_CENT + 1n;
    const before = await teller.chain.balanceOf(payTo);
    const { response } = await buy("/upto", privateKeyToAccount(teller.devnet.payers[3]));
    assert.equal(response.status, 402);
    assert.equal(await teller.chain.balanceOf(payTo), before);
  });
});
