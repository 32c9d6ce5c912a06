// A shop behind x402-express 1.x and buyers with x402-fetch 1.x, with teller as their facilitator.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import express from "express";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { paymentMiddleware } from "x402-express";
import { decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";
import { useFacilitator } from "x402/verify";

import { demandOneSale, serve, startTeller } from "../harness.mjs";

const NETWORK = "base-sepolia";
const ONE_CENT = 10_000n;

describe("x402 v1 packages", () => {
  let teller, shop, payTo, served;

  before(async () => {
    teller = await startTeller();
    payTo = privateKeyToAccount(generatePrivateKey()).address;
    served = 0;
    const app = express();
    app.use(paymentMiddleware(payTo, { "GET /weather": { price: "$0.01", network: NETWORK } }, { url: teller.url }));
    app.get("/weather", (_, response) => response.json({ weather: "sunny", served: ++served }));
    shop = await serve(app);
  });

  after(async () => {
    await shop?.stop();
    await teller?.stop();
  });

  /** Buys once; `header` is the X-PAYMENT that was sent. */
  async function buy(account) {
    let header;
    const recording = (input, init) => {
      header = init?.headers?.["X-PAYMENT"];
      return fetch(input, init);
    };
    return { response: await wrapFetchWithPayment(recording, account)(`${shop.url}/weather`), header };
  }

  function receiptOf(response) {
    const header = response.headers.get("X-PAYMENT-RESPONSE");
    assert.ok(header, `no X-PAYMENT-RESPONSE with status ${response.status}`);
    return decodeXPaymentResponse(header);
  }

  it("finds exact payments on base-sepolia supported", async () => {
    const { kinds } = await useFacilitator({ url: teller.url }).supported();
    assert.ok(kinds.some((kind) => kind.x402Version === 1 && kind.scheme === "exact" && kind.network === NETWORK));
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
    purchases.forEach(({ response }) => assert.match(receiptOf(response).transaction, /^0x[0-9a-f]{64}$/));
    assert.equal(await teller.chain.balanceOf(payTo) - before, 20n * ONE_CENT);
  });

  it("sells once when one payment header is sent again", async () => {
    const { response, header } = await buy(privateKeyToAccount(teller.devnet.payers[0]));
    assert.equal(response.status, 200, await response.clone().text());
    const [paid, soldBefore] = [await teller.chain.balanceOf(payTo), served];

    const replayed = await fetch(`${shop.url}/weather`, { headers: { "X-PAYMENT": header } });

    assert.equal(replayed.status, 402);
    assert.equal(await teller.chain.balanceOf(payTo), paid);
    assert.ok(served <= soldBefore + 1, "the handler may run before settlement, its answer must not get out");
    assert.ok(!(await replayed.text()).includes("sunny"));
  });

  it("refuses a buyer without money", async () => {
    const before = await teller.chain.balanceOf(payTo);
    const { response } = await buy(privateKeyToAccount(generatePrivateKey()));
    assert.equal(response.status, 402);
    assert.equal(await teller.chain.balanceOf(payTo), before);
  });
});
