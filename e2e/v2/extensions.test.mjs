// What stands beside a payment, with the official packages on both sides: a shop that wants to be found, buyers who find it and
// name their payments, and receipts that a library for typed data checks.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { x402Client } from "@x402/core/client";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme as ExactEvmClient } from "@x402/evm/exact/client";
import { ExactEvmScheme as ExactEvmServer } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import { bazaarResourceServerExtension, declareDiscoveryExtension, withBazaar } from "@x402/extensions/bazaar";
import { appendPaymentIdentifierToExtensions, declarePaymentIdentifierExtension } from "@x402/extensions/payment-identifier";
import { wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import express from "express";
import { verifyTypedData } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

import { serve, startTeller } from "../harness.mjs";

const NETWORK = "eip155:84532";

describe("x402 v2 extensions", () => {
  let teller, shop, facilitator, payTo;

  before(async () => {
    teller = await startTeller();
    payTo = privateKeyToAccount(generatePrivateKey()).address;
    facilitator = withBazaar(new HTTPFacilitatorClient({ url: teller.url }));
    const resourceServer = new x402ResourceServer(new HTTPFacilitatorClient({ url: teller.url }))
      .register(NETWORK, new ExactEvmServer())
      .registerExtension(bazaarResourceServerExtension);
    const accepts = { scheme: "exact", price: "$0.01", network: NETWORK, payTo };
    const discovery = (input) => declareDiscoveryExtension({
      input,
      inputSchema: { properties: Object.fromEntries(Object.keys(input).map((key) => [key, { type: "string" }])) },
      output: { example: { height: 1.2 } },
    });
    const app = express();
    app.use(paymentMiddleware({
      "GET /tides": { accepts, description: "Tide forecasts for every harbour", extensions: discovery({ harbour: "Kiel" }) },
      "GET /boats/:id": { accepts, description: "One boat", extensions: discovery({ format: "short" }) },
      "GET /secret": { accepts, description: "Not for everybody" },
    }, resourceServer));
    app.use((_, response) => response.json({ height: 1.2 }));
    shop = await serve(app);
  });

  after(async () => {
    await shop?.stop();
    await teller?.stop();
  });

  async function buy(path, buyer) {
    const account = privateKeyToAccount(teller.devnet.payers[buyer]);
    const pay = wrapFetchWithPaymentFromConfig(fetch, {
      schemes: [{ network: NETWORK, client: new ExactEvmClient(account) }],
    });
    const response = await pay(`${shop.url}${path}`);
    assert.equal(response.status, 200, await response.text());
  }

  it("says which extensions it knows", async () => {
    const { extensions } = await facilitator.getSupported();
    for (const id of ["payment-identifier", "bazaar"]) assert.ok(extensions.includes(id), extensions.join());
  });

  it("lists what was bought and wants to be found, and finds it by its words", async () => {
    assert.equal((await facilitator.extensions.bazaar.listResources()).pagination.total, 0);
    await buy("/tides?harbour=Emden", 0);
    await buy("/boats/7?format=long", 1);
    await buy("/boats/8", 2);
    await buy("/secret", 3);

    const listed = await facilitator.extensions.bazaar.listResources({ type: "http", limit: 10 });

    assert.deepEqual(listed.items.map(({ resource }) => resource.slice(shop.url.length)).sort(), ["/boats/:id", "/tides"]);
    assert.deepEqual(listed.pagination, { limit: 10, offset: 0, total: 2 });
    const tides = listed.items.find(({ resource }) => resource.endsWith("/tides"));
    assert.equal(tides.accepts[0].payTo, payTo);
    assert.equal(tides.description, "Tide forecasts for every harbour");
    assert.deepEqual(tides.extensions.bazaar.info.input.queryParams, { harbour: "Kiel" });
    assert.ok(Date.parse(tides.lastUpdated) > Date.now() - 600_000);
    const found = await facilitator.extensions.bazaar.search({ query: "a forecast for my harbour", network: NETWORK });
    assert.equal(found.resources[0].resource, tides.resource);
    const nothing = await facilitator.extensions.bazaar.search({ query: "stocks", payTo });
    assert.deepEqual(nothing.resources, []);
  });

  it("takes an identifier for one payment only", async () => {
    const account = privateKeyToAccount(teller.devnet.payers[4]);
    const { address, name, version } = teller.devnet.asset;
    const requirements = {
      scheme: "exact", network: NETWORK, amount: "10000", asset: address, payTo, maxTimeoutSeconds: 60, extra: { name, version },
    };
    const sign = async (id) => {
      const client = new x402Client().register(NETWORK, new ExactEvmClient(account));
      const payment = await client.createPaymentPayload({
        x402Version: 2, resource: { url: `${shop.url}/tides` }, accepts: [requirements],
      });
      const extensions = { "payment-identifier": declarePaymentIdentifierExtension(true) };
      return { ...payment, extensions: appendPaymentIdentifierToExtensions(extensions, id) };
    };
    const id = "pay_7d5d747be160e280504c099d984bcfe0";
    const settled = await facilitator.settle(await sign(id), requirements);
    assert.equal(settled.success, true, JSON.stringify(settled));
    const second = await sign(id);
    await assert.rejects(facilitator.settle(second, requirements), /payment_identifier_reused/);
    await assert.rejects(facilitator.verify(second, requirements), /payment_identifier_reused/);
    const other = await facilitator.settle(await sign("pay_another_one_0123"), requirements);
    assert.equal(other.success, true, JSON.stringify(other));
  });

  it("gives receipts that viem checks as they stand, and refuses changed ones", async () => {
    const { settlements } = await (await fetch(`${teller.url}/settlements`)).json();
    assert.ok(settlements.length > 0);
    for (const { id, payer } of settlements) {
      const response = await fetch(`${teller.url}/settlements/${id}/receipt`);
      assert.equal(response.status, 200);
      const { signer, signature, ...typedData } = await response.json();
      assert.equal(typedData.message.payer.toLowerCase(), payer.toLowerCase());
      assert.equal(await verifyTypedData({ ...typedData, signature, address: signer }), true);
      const message = { ...typedData.message, logIndex: String(BigInt(typedData.message.logIndex) + 1n) };
      assert.equal(await verifyTypedData({ ...typedData, message, signature, address: signer }), false);
    }
  });
});
