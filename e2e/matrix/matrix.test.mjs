// Every official buyer pays every official shop in each way that both speak, with teller as the facilitator.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { after, before, describe, it } from "node:test";

import { whatIsServed } from "../differential/served.mjs";
import { newWallet } from "../differential/wallets.mjs";
import { CONTRACTS, freshAccount, makeWorld } from "../differential/world.mjs";
import { startTeller } from "../harness.mjs";
import { BUYERS, SHOPS, openShop, startBuyer, stopAll } from "./counterparts.mjs";
import { Table } from "./table.mjs";

const NETWORKS = { 1: "base-sepolia", 2: "eip155:84532" };
const PRICE = 10_000n;
/** How many payments are under way at the same time. */
const WIDTH = 10;

/** Where a shop sells what is paid in which way. */
const WAYS = {
  eip3009: { scheme: "exact", method: "EIP-3009", path: "exact/eip3009" },
  permit2: { scheme: "exact", method: "Permit2", path: "exact/permit2" },
  upto: { scheme: "upto", method: "Permit2", path: "upto/permit2" },
};
/** What teller must serve for payments with a signature of this kind. */
const NEEDED_FOR = { EOA: undefined, "ERC-1271": "erc1271", "ERC-6492": "erc6492" };

const table = new Table();

describe("official buyers in official shops", { concurrency: WIDTH }, () => {
  let teller, world, serves;
  const shops = new Map();
  const buyers = new Map();
  const idle = [];

  before(async () => {
    teller = await startTeller();
    world = await makeWorld(teller);
    serves = await whatIsServed(world, teller);
    idle.push(...world.payers);
    for (const buyer of BUYERS) buyers.set(buyer, startBuyer(buyer));
    await Promise.all(SHOPS.map(async (shop) => {
      const payTo = freshAccount().address;
      const order = { facilitator: teller.url, payTo, asset: world.asset, ways: [...serves] };
      shops.set(shop, { payTo, ...await openShop(shop, order) });
    }));
  }, { timeout: 120_000 });

  after(async () => {
    await stopAll();
    await teller?.stop();
    const text = table.text();
    if (process.env.TELLER_E2E_MATRIX) await writeFile(process.env.TELLER_E2E_MATRIX, text);
    else console.log(text);
  });

  /** Who pays: an account of its own while the payment lasts, or a wallet with a new owner. */
  async function withPayer(signature, pay) {
    if (signature !== "EOA") {
      const { address, owner, creation } = await newWallet(world, signature === "ERC-1271");
      return pay({
        address,
        key: owner.key,
        wallet: address,
        ...(signature === "ERC-6492" && { creation: { factory: CONTRACTS.walletFactory, calldata: creation } }),
      });
    }
    const payer = idle.pop();
    try {
      return await pay({ address: payer.address, key: world.keyOf(payer) });
    } finally {
      idle.push(payer);
    }
  }

  async function buyOnce({ buyer, shop, version, way, signature }) {
    const { url, payTo } = shops.get(shop);
    await withPayer(signature, async ({ address, ...order }) => {
      const before = await teller.chain.balanceOf(address);

      const { error, status, body, receipt, demand } = await buyers.get(buyer).buy({
        url: `${url}/v${version}/${WAYS[way].path}`, rpc: teller.devnet.rpc, ...order,
      });

      assert.equal(error, undefined, error);
      assert.equal(status, 200, `${status}: ${body} ${demand}`);
      assert.equal(JSON.parse(body).weather, "sunny");
      assert.ok(receipt, "there is no receipt with the goods");
      assert.equal(receipt.success, true, JSON.stringify(receipt));
      assert.equal(receipt.network, NETWORKS[version]);
      assert.equal(receipt.payer.toLowerCase(), address.toLowerCase());
      const price = way === "upto" ? shop.charges : PRICE;
      assert.deepEqual(await teller.chain.transfersIn(receipt.transaction, address, payTo), [price]);
      assert.equal(before - await teller.chain.balanceOf(address), price);
    });
  }

  for (const cell of cells()) {
    const { buyer, shop, version, way, signature } = cell;
    const { scheme, method } = WAYS[way];
    const column = [shop.name, `v${version}`, scheme, method, signature];
    it(`${buyer.name} pays ${column.join(", ")}`, { timeout: 120_000 }, async (test) => {
      const needed = [way, NEEDED_FOR[signature]].filter((one) => one && !serves.has(one));
      if (needed.length > 0) {
        table.put(buyer.name, column, "not served");
        test.skip(`teller does not serve ${needed.join(" and ")}`);
        return;
      }
      table.put(buyer.name, column, "FAILED");
      await buyOnce(cell);
      table.put(buyer.name, column, "paid");
    });
  }
});

/** Everything that both a buyer and a shop speak. Contract wallets pay by EIP-3009. */
function cells() {
  return BUYERS.flatMap((buyer) => SHOPS.flatMap((shop) => [1, 2].flatMap((version) =>
    (shop.speaks[version] ?? []).filter((way) => buyer.speaks[version]?.includes(way)).flatMap((way) =>
      (way === "eip3009" ? buyer.signatures : ["EOA"]).map((signature) => ({ buyer, shop, version, way, signature }))))));
}
