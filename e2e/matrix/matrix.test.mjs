// Every official buyer pays every official shop in each way that both speak, with teller as the facilitator.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { after, before, describe, it } from "node:test";

import { encodeBuilderCodeSuffix } from "@x402/extensions/builder-code";
import { parseAbi } from "viem";

import { whatIsServed } from "../differential/served.mjs";
import { newDelegated, newWallet } from "../differential/wallets.mjs";
import { AMOUNT, CONTRACTS, MAX_UINT, approve, freshAccount, freshOwner, makeWorld, newPayer } from "../differential/world.mjs";
import { startTeller } from "../harness.mjs";
import { BUYERS, SHOPS, openShop, startBuyer, stopAll } from "./counterparts.mjs";
import { Table } from "./table.mjs";

const NETWORKS = { 1: "base-sepolia", 2: "eip155:84532" };
const PRICE = 10_000n;
/** How many payments are under way at the same time. */
const WIDTH = 24;
/** What a payer is given at most for its approval's gas. */
const MOST_GIVEN = 10n ** 15n;
const CODES = { facilitator: "bc_teller", shop: "bc_shop", buyer: "bc_buyer" };

/** Where a shop sells what is paid in which way. */
const WAYS = {
  eip3009: { scheme: "exact", method: "EIP-3009", path: "exact/eip3009" },
  permit2: { scheme: "exact", method: "Permit2", path: "exact/permit2" },
  upto: { scheme: "upto", method: "Permit2", path: "upto/permit2" },
  "eip2612 for exact": { scheme: "exact", method: "Permit2", path: "exact/eip2612", extension: "eip2612GasSponsoring" },
  "eip2612 for upto": { scheme: "upto", method: "Permit2", path: "upto/eip2612", extension: "eip2612GasSponsoring" },
  "approval for exact": { scheme: "exact", method: "Permit2", path: "exact/erc20approval", extension: "erc20ApprovalGasSponsoring" },
  "approval for upto": { scheme: "upto", method: "Permit2", path: "upto/erc20approval", extension: "erc20ApprovalGasSponsoring" },
  "payment-identifier": { scheme: "exact", method: "EIP-3009", path: "exact/identifier", extension: "payment-identifier" },
  // Each buyer has a resource of its own there, so that what is listed says who bought.
  bazaar: { scheme: "exact", method: "EIP-3009", path: "exact/bazaar", extension: "bazaar" },
  "builder-code": { scheme: "exact", method: "EIP-3009", path: "exact/builder", extension: "builder-code" },
};
/** What teller must serve for payments with a signature of this kind. */
const NEEDED_FOR = { EOA: undefined, "EOA without gas": undefined, "EIP-7702": "eip7702", "ERC-1271": "erc1271", "ERC-6492": "erc6492" };

const allowanceAbi = parseAbi(["function allowance(address owner, address spender) view returns (uint256)"]);
const table = new Table();

describe("official buyers in official shops", { concurrency: WIDTH }, () => {
  let teller, world, serves;
  const shops = new Map();
  const buyers = new Map();
  /** By kind, payers that pay for nothing right now. */
  let idle;

  before(async () => {
    teller = await startTeller({
      TELLER__SERVER__BUILDER_CODE: CODES.facilitator,
      TELLER__NETWORKS__0__APPROVALS__MAX_TOP_UP_WEI: String(MOST_GIVEN),
    });
    world = await makeWorld(teller);
    serves = await whatIsServed(world, teller);
    idle = await everyPayer();
    for (const buyer of BUYERS) buyers.set(buyer, startBuyer(buyer));
    await Promise.all(SHOPS.map(async (shop) => {
      const payTo = freshAccount().address;
      const order = { facilitator: teller.url, payTo, asset: world.asset, ways: [...serves], builderCode: CODES.shop, buyers: BUYERS.length };
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

  /** As many of each kind as may pay at the same time. Those of no allowance cannot pay by Permit2 alone. */
  async function everyPayer() {
    const many = (make) => Promise.all(Array.from({ length: WIDTH }, make));
    const approved = async ({ address, owner }, wallet) => {
      await world.giveEther(address);
      await approve(world, address, MAX_UINT);
      return { address, key: owner.key, wallet };
    };
    const newAccount = async () => {
      const owner = freshOwner();
      await newPayer(world, 100n * AMOUNT, owner);
      return { address: owner.address, owner };
    };
    const [accounts, delegated, deployed, bare] = await Promise.all([
      many(async () => approved(await newAccount())),
      many(async () => approved(await newDelegated(world))),
      many(async () => {
        const wallet = await newWallet(world, true);
        return approved(wallet, wallet.address);
      }),
      many(async () => {
        const { address, owner } = await newAccount();
        return { address, key: owner.key };
      }),
    ]);
    return { EOA: accounts, "EIP-7702": delegated, "ERC-1271": deployed, "no allowance": bare };
  }

  /** Who pays: nobody else pays from there while the payment lasts. A wallet that is not there yet can do so once. */
  async function withPayer(kind, pay) {
    if (kind === "ERC-6492") {
      const { address, owner, creation } = await newWallet(world, false);
      return pay({ address, key: owner.key, wallet: address, creation: { factory: CONTRACTS.walletFactory, calldata: creation } });
    }
    // Whoever has approved Permit2 once cannot do so again.
    if (kind === "to approve" || kind === "to approve without gas") {
      const owner = freshOwner();
      await newPayer(world, 100n * AMOUNT, owner);
      if (kind === "to approve without gas") await world.client.setBalance({ address: owner.address, value: 0n });
      return pay({ address: owner.address, key: owner.key });
    }
    const payer = idle[kind].pop();
    try {
      return await pay(payer);
    } finally {
      idle[kind].push(payer);
    }
  }

  /** Which payers a cell needs. */
  function payersFor({ way, signature }) {
    switch (WAYS[way].extension) {
      case "eip2612GasSponsoring": return "no allowance";
      case "erc20ApprovalGasSponsoring": return signature.replace("EOA", "to approve");
      default: return signature;
    }
  }

  async function buyOnce(cell) {
    const { buyer, shop, version, way } = cell;
    const { url, payTo } = shops.get(shop);
    const { path, scheme, extension } = WAYS[way];
    await withPayer(payersFor(cell), async ({ address, ...payer }) => {
      const before = await teller.chain.balanceOf(address);
      const etherBefore = await world.client.getBalance({ address });
      const order = {
        url: `${url}/v${version}/${path}${extension === "bazaar" ? BUYERS.indexOf(buyer) : ""}`, rpc: teller.devnet.rpc, ...payer,
        ...(extension === "payment-identifier" && { identifier: `pay_${freshAccount().address}` }),
        ...(extension === "builder-code" && { builderCode: CODES.buyer }),
      };

      const { error, status, body, receipt, demand } = await buyers.get(buyer).buy(order);

      assert.equal(error, undefined, error);
      assert.equal(status, 200, `${status}: ${body} ${demand}`);
      assert.equal(JSON.parse(body).weather, "sunny");
      assert.ok(receipt, "there is no receipt with the goods");
      assert.equal(receipt.success, true, JSON.stringify(receipt));
      assert.equal(receipt.network, NETWORKS[version]);
      assert.equal(receipt.payer.toLowerCase(), address.toLowerCase());
      const price = scheme === "upto" ? shop.charges : PRICE;
      assert.deepEqual(await teller.chain.transfersIn(receipt.transaction, address, payTo), [price]);
      assert.equal(before - await teller.chain.balanceOf(address), price);
      await arrived[extension]?.({ buyer, order, receipt, address, etherBefore });
    });
  }

  /** How it is seen that teller got what a payment brought along. */
  const arrived = {
    "payment-identifier": async ({ buyer, order }) => {
      const { status, demand, body } = await buyers.get(buyer).buy(order);
      assert.equal(status, 402, body);
      assert.match(demand, /payment_identifier_reused/);
    },
    erc20ApprovalGasSponsoring: async ({ address, etherBefore, receipt }) => {
      const { blockNumber } = await world.client.getTransactionReceipt({ hash: receipt.transaction });
      const allowance = await world.client.readContract({
        address: world.asset.address, abi: allowanceAbi, functionName: "allowance", args: [address, CONTRACTS.permit2],
      });
      assert.ok(allowance > 0n, "Permit2 may move nothing");
      assert.equal(await world.client.getTransactionCount({ address }), 1, "the payer's only transaction is its approval");
      const { gasUsed, effectiveGasPrice } = await newestOf(address, blockNumber);
      const given = await world.client.getBalance({ address }) + gasUsed * effectiveGasPrice - etherBefore;
      if (etherBefore > 0n) assert.equal(given, 0n, "the payer has paid for its approval");
      else assert.ok(given > 0n && given <= MOST_GIVEN, `the payer was given ${given} wei`);
    },
    bazaar: async ({ order }) => {
      const { items } = await (await fetch(`${teller.url}/discovery/resources?limit=100`)).json();
      const listed = items.find(({ resource }) => resource === order.url);
      assert.ok(listed, `${order.url} is not listed`);
      assert.deepEqual(listed.extensions.bazaar.info.input.queryParams, { city: "Kiel" });
    },
    "builder-code": async ({ receipt }) => {
      const { input } = await world.client.getTransaction({ hash: receipt.transaction });
      const suffix = encodeBuilderCodeSuffix({ a: CODES.shop, w: CODES.facilitator, s: [CODES.buyer] });
      assert.ok(input.includes(suffix.replace("0x", "")), `there is no ${suffix} in ${input}`);
    },
  };

  /** The receipt of the newest transaction of an account's own, at that height or below. */
  async function newestOf(address, height) {
    for (let blockNumber = height; blockNumber > 0n; blockNumber -= 1n) {
      const { transactions } = await world.client.getBlock({ blockNumber, includeTransactions: true });
      const found = transactions.find(({ from }) => from.toLowerCase() === address.toLowerCase());
      if (found) return world.client.getTransactionReceipt({ hash: found.hash });
    }
    throw new Error(`${address} has sent nothing`);
  }

  for (const cell of cells()) {
    const { buyer, shop, version, way, signature } = cell;
    const { scheme, method, extension = "" } = WAYS[way];
    const row = [shop.name, `v${version}`, scheme, method, signature, extension];
    it(`${buyer.name} pays ${row.filter(Boolean).join(", ")}`, { timeout: 120_000 }, async (test) => {
      const needed = [way, NEEDED_FOR[signature]].filter((one) => one && !serves.has(one));
      if (needed.length > 0) {
        table.put(buyer.name, row, "not served");
        test.skip(`teller does not serve ${needed.join(" and ")}`);
        return;
      }
      table.put(buyer.name, row, "FAILED");
      await buyOnce(cell);
      table.put(buyer.name, row, "paid");
    });
  }
});

function isSpoken(buyer, shop, version, way) {
  return buyer.speaks[version]?.includes(way) && [undefined, shop.name].includes(buyer.onlyIn?.[way]);
}

/** Everything that both a buyer and a shop speak. Extensions are tried with plain accounts. */
function cells() {
  return BUYERS.flatMap((buyer) => SHOPS.flatMap((shop) => [1, 2].flatMap((version) =>
    (shop.speaks[version] ?? []).filter((way) => isSpoken(buyer, shop, version, way)).flatMap((way) =>
      buyer.signatures.filter((signature) => (shop.from[way] ?? ["EOA"]).includes(signature))
        .map((signature) => ({ buyer, shop, version, way, signature }))))));
}
