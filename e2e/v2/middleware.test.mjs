// A shop behind @x402/express and buyers with @x402/fetch, with teller as their facilitator.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme as ExactEvmClient } from "@x402/evm/exact/client";
import { ExactEvmScheme as ExactEvmServer } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import express from "express";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

import { demandOneSale, serve, startTeller } from "../harness.mjs";

const NETWORK = "eip155:84532";
const ONE_CENT = 10_000n;

describe("x402 v2 packages", () => {
  let teller, shop, payTo, served;

  before(async () => {
    teller = await startTeller();
    payTo = privateKeyToAccount(generatePrivateKey()).address;
    served = 0;
    const resourceServer = new x402ResourceServer(new HTTPFacilitatorClient({ url: teller.url }))
      .register(NETWORK, new ExactEvmServer());
    const app = express();
    app.use(paymentMiddleware({
      "GET /weather": { accepts: { scheme: "exact", price: "$0.01", network: NETWORK, payTo }, description: "Weather" },
    }, resourceServer));
    app.get("/weather", (_, response) => response.json({ weather: "sunny", served: ++served }));
    shop = await serve(app);
  });

  after(async () => {
    await shop?.stop();
    await teller?.stop();
  });

  /** Buys once; `headers` is what was sent with the payment. */
  async function buy(account) {
    let headers;
    const recording = (request) => {
      headers = new Headers(request.headers);
      return fetch(request);
    };
    const pay = wrapFetchWithPaymentFromConfig(recording, {
      schemes: [{ network: NETWORK, client: new ExactEvmClient(account) }],
    });
    return { response: await pay(`${shop.url}/weather`), headers };
  }

  function receiptOf(response) {
    const header = response.headers.get("PAYMENT-RESPONSE");
    assert.ok(header, `no PAYMENT-RESPONSE with status ${response.status}`);
    return decodePaymentResponseHeader(header);
  }

  it("asks for a payment of one cent of the known dollar", async () => {
    const response = await fetch(`${shop.url}/weather`);
    assert.equal(response.status, 402);
    const required = JSON.parse(atob(response.headers.get("PAYMENT-REQUIRED")));
    const [{ amount, asset, extra }] = required.accepts;
    assert.equal(amount, String(ONE_CENT));
    assert.equal(asset.toLowerCase(), teller.devnet.asset.address.toLowerCase());
    assert.equal(extra.name, teller.devnet.asset.name);
    assert.equal(extra.version, teller.devnet.asset.version);
  });

  it("sells the resource for a payment that is on the chain, and moves exactly one cent", async () => {
    const payer = privateKeyToAccount(teller.devnet.payers[0]);
    const sale = { teller, payer, payTo, value: ONE_CENT, network: NETWORK };
    await demandOneSale(sale, async () => {
      const { response } = await buy(payer);
      return { response, receipt: receiptOf(response) };
    });
  });

  it("sells to 20 buyers at once, each for one transfer of his own", async () => {
    const payers = Array.from({ length: 20 }, (_, buyer) =>
      privateKeyToAccount(teller.devnet.payers[buyer % teller.devnet.payers.length]));
    const before = await teller.chain.balanceOf(payTo);

    const purchases = await Promise.all(payers.map(buy));

    assert.deepEqual(purchases.map(({ response }) => response.status), Array(20).fill(200));
    const transfers = new Map();
    for (const [buyer, { response }] of purchases.entries()) {
      const { transaction } = receiptOf(response);
      transfers.set(`${transaction} ${payers[buyer].address}`, [transaction, payers[buyer].address]);
    }
    const amounts = await Promise.all(
      [...transfers.values()].map(([transaction, payer]) => teller.chain.transfersIn(transaction, payer, payTo)));
    assert.deepEqual(amounts.flat(), Array(20).fill(ONE_CENT));
    assert.equal(await teller.chain.balanceOf(payTo) - before, 20n * ONE_CENT);
  });

  it("sells once when one payment header is sent again", async () => {
    const payer = privateKeyToAccount(teller.devnet.payers[0]);
    const { response, headers } = await buy(payer);
    assert.equal(response.status, 200, await response.clone().text());
    const [paid, soldBefore] = [await teller.chain.balanceOf(payTo), served];

    const replayed = await fetch(`${shop.url}/weather`, { headers });

    assert.equal(replayed.status, 402);
    assert.equal(await teller.chain.balanceOf(payTo), paid);
    assert.ok(served <= soldBefore + 1, "the handler may run before settlement, its answer must not get out");
    assert.ok(!(await replayed.text()).includes("sunny"));
  });

  it("sells once when one payment header is sent ten times at once", async () => {
    const payer = privateKeyToAccount(teller.devnet.payers[0]);
    const before = await teller.chain.balanceOf(payTo);
    let header;
    const signOnly = wrapFetchWithPaymentFromConfig((request) => {
      header = request.headers.get("PAYMENT-SIGNATURE");
      return header ? Promise.resolve(new Response()) : fetch(request);
    }, { schemes: [{ network: NETWORK, client: new ExactEvmClient(payer) }] });
    await signOnly(`${shop.url}/weather`);

    const answers = await Promise.all(Array.from({ length: 10 }, () =>
      fetch(`${shop.url}/weather`, { headers: { "PAYMENT-SIGNATURE": header } })));

    const statuses = answers.map(({ status }) => status).sort();
    assert.deepEqual(statuses, [200, ...Array(9).fill(402)]);
    assert.equal(await teller.chain.balanceOf(payTo) - before, ONE_CENT);
  });

  it("refuses a buyer without money", async () => {
    const before = await teller.chain.balanceOf(payTo);
    const { response } = await buy(privateKeyToAccount(generatePrivateKey()));
    assert.equal(response.status, 402);
    assert.equal(await teller.chain.balanceOf(payTo), before);
  });
});
