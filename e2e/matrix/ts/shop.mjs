// What the TypeScript shops have in common: what they sell, and for how much.

import { HTTPFacilitatorClient, x402ResourceServer } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";

const NETWORK = "eip155:84532";
/** What a shop charges under `upto`, of the 10000 that it asks permission for. */
export const CHARGED = "4000";

/** `{facilitator, payTo, asset, ways}`, as the tests say it. */
export const order = JSON.parse(process.argv[2]);

export function resourceServer() {
  return new x402ResourceServer(new HTTPFacilitatorClient({ url: order.facilitator }))
    .register(NETWORK, new ExactEvmScheme())
    .register(NETWORK, new UptoEvmScheme());
}

/** The routes of the ways that the facilitator serves; a shop does not start with one that it does not. */
export function routes() {
  const { address, name, version } = order.asset;
  const byPermit = { asset: address, amount: "10000", extra: { name, version, assetTransferMethod: "permit2" } };
  const all = {
    eip3009: ["GET /v2/exact/eip3009", { scheme: "exact", price: "$0.01" }],
    permit2: ["GET /v2/exact/permit2", { scheme: "exact", price: byPermit }],
    upto: ["GET /v2/upto/permit2", { scheme: "upto", price: byPermit }],
  };
  return Object.fromEntries(order.ways.filter((way) => way in all).map((way) => {
    const [route, terms] = all[way];
    return [route, { accepts: { ...terms, network: NETWORK, payTo: order.payTo } }];
  }));
}

/** Tells the tests where the shop is. */
export const opened = (port) => console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }));
