// What the TypeScript shops have in common: what they sell, and for how much.

import { HTTPFacilitatorClient, x402ResourceServer } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";
import { declareEip2612GasSponsoringExtension, declareErc20ApprovalGasSponsoringExtension } from "@x402/extensions";
import { bazaarResourceServerExtension, declareDiscoveryExtension } from "@x402/extensions/bazaar";
import { BUILDER_CODE, builderCodeResourceServerExtension, declareBuilderCodeExtension } from "@x402/extensions/builder-code";
import {
  PAYMENT_IDENTIFIER, declarePaymentIdentifierExtension, paymentIdentifierResourceServerExtension,
} from "@x402/extensions/payment-identifier";

const NETWORK = "eip155:84532";
/** What a shop charges under `upto`, of the 10000 that it asks permission for. */
export const CHARGED = "4000";

/** `{facilitator, payTo, asset, ways, builderCode, buyers}`, as the tests say it. */
export const order = JSON.parse(process.argv[2]);

export function resourceServer() {
  return new x402ResourceServer(new HTTPFacilitatorClient({ url: order.facilitator }))
    .register(NETWORK, new ExactEvmScheme())
    .register(NETWORK, new UptoEvmScheme())
    .registerExtension(bazaarResourceServerExtension)
    .registerExtension(builderCodeResourceServerExtension)
    .registerExtension(paymentIdentifierResourceServerExtension);
}

/** The routes of the ways that the facilitator serves; a shop does not start with one that it does not. */
export function routes() {
  const { address, name, version } = order.asset;
  const byPermit = { asset: address, amount: "10000", extra: { name, version, assetTransferMethod: "permit2" } };
  const sponsored = declareEip2612GasSponsoringExtension();
  const approved = declareErc20ApprovalGasSponsoringExtension();
  const discovery = declareDiscoveryExtension({
    input: { city: "Kiel" }, inputSchema: { properties: { city: { type: "string" } } }, output: { example: { weather: "sunny" } },
  });
  const byAuthorization = { scheme: "exact", price: "$0.01" };
  const all = {
    eip3009: ["GET /v2/exact/eip3009", byAuthorization],
    permit2: ["GET /v2/exact/permit2", { scheme: "exact", price: byPermit }],
    upto: ["GET /v2/upto/permit2", { scheme: "upto", price: byPermit }],
    "eip2612 for exact": ["GET /v2/exact/eip2612", { scheme: "exact", price: byPermit }, sponsored],
    "eip2612 for upto": ["GET /v2/upto/eip2612", { scheme: "upto", price: byPermit }, sponsored],
    "approval for exact": ["GET /v2/exact/erc20approval", { scheme: "exact", price: byPermit }, approved],
    "approval for upto": ["GET /v2/upto/erc20approval", { scheme: "upto", price: byPermit }, approved],
    [PAYMENT_IDENTIFIER]: ["GET /v2/exact/identifier", byAuthorization, { [PAYMENT_IDENTIFIER]: declarePaymentIdentifierExtension(true) }],
    [BUILDER_CODE]: ["GET /v2/exact/builder", byAuthorization, { [BUILDER_CODE]: declareBuilderCodeExtension(order.builderCode) }],
  };
  const served = order.ways.filter((way) => way in all).map((way) => all[way]);
  if (order.ways.includes("bazaar")) {
    for (let buyer = 0; buyer < order.buyers; buyer += 1) served.push([`GET /v2/exact/bazaar${buyer}`, byAuthorization, discovery]);
  }
  return Object.fromEntries(served.map(([route, terms, extensions]) => {
    return [route, { accepts: { ...terms, network: NETWORK, payTo: order.payTo }, extensions }];
  }));
}

/** Tells the tests where the shop is. */
export const opened = (port) => console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }));
