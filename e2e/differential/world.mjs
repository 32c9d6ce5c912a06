// The chain that both facilitators look at, brought into every state that a payment can meet: who has money, whose nonce
// is used, who is blacklisted. Known about the chain is what contracts/ puts there.

import { setTimeout } from "node:timers/promises";

import {
  createTestClient, encodeFunctionData, http, keccak256, parseAbi, parseSignature, publicActions, stringToHex,
  walletActions,
} from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

export const CHAIN_ID = 84532;
export const NETWORKS = { 1: "base-sepolia", 2: `eip155:${CHAIN_ID}` };
export const AMOUNT = 10_000n;
export const MAX_UINT = (1n << 256n) - 1n;
/** 100 gwei. The chain's base fee goes down and is put up again, and what was priced in between would never be mined. */
export const GAS_PRICE = 100_000_000_000n;
const ETHER = 10n ** 18n;

/** Where the local chain has what is not said in the `devnet:` line; the first four are where every chain has them. */
export const CONTRACTS = {
  multicall3: "0xcA11bde05977b3631167028862bE2a173976CA11",
  permit2: "0x000000000022D473030F116dDEE9F6B43aC78BA3",
  exactProxy: "0x402085c248EeA27D92E8b30b2C58ed07f9E20001",
  uptoProxy: "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002",
  plainToken: "0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d703",
  permitToken: "0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d704",
  walletFactory: "0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d705",
  smartWallet: "0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d706",
};
/** Has every role of the test dollar. */
const BOSS = "0xb055b055b055b055b055b055b055b055b055b055";

export const dollarAbi = parseAbi([
  "function transfer(address to, uint256 value) returns (bool)",
  "function approve(address spender, uint256 value) returns (bool)",
  "function nonces(address owner) view returns (uint256)",
  "function blacklist(address account)",
  "function pause()",
  "function unpause()",
  "function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s)",
  "function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature)",
]);

export const AUTHORIZATION_TYPES = {
  TransferWithAuthorization: authorizationFields(),
  ReceiveWithAuthorization: authorizationFields(),
  CancelAuthorization: [{ name: "authorizer", type: "address" }, { name: "nonce", type: "bytes32" }],
};

function authorizationFields() {
  const fields = ["address from", "address to", "uint256 value", "uint256 validAfter", "uint256 validBefore", "bytes32 nonce"];
  return fields.map((field) => field.split(" ")).map(([type, name]) => ({ name, type }));
}

/** Seconds since 1970. */
export const now = () => Math.floor(Date.now() / 1000);

export const freshAccount = () => privateKeyToAccount(generatePrivateKey());

/** An account that can be handed to another process: with its key. */
export function freshOwner() {
  const key = generatePrivateKey();
  return { ...privateKeyToAccount(key), key };
}

/** 32 random bytes that do not end in a zero, so that one without its last digit is another. */
export const freshNonce = () => `${keccak256(generatePrivateKey()).slice(0, -1)}7`;

/** Everything that cases need of the chain. */
export async function makeWorld({ devnet }) {
  const client = createTestClient({
    mode: "anvil", chain: baseSepolia, transport: http(devnet.rpc), pollingInterval: 100,
  }).extend(publicActions).extend(walletActions);
  const payers = devnet.payers.map((key) => privateKeyToAccount(key));
  let turn = 0;
  const world = {
    client,
    payers,
    /** By side, what gives the address that a permit of `upto` must name. */
    facilitators: {},
    keyOf: (payer) => devnet.payers[payers.indexOf(payer)],
    nextPayer: () => payers[turn++ % payers.length],
    payTo: freshAccount().address,
    asset: devnet.asset,
    domain: {
      name: devnet.asset.name, version: devnet.asset.version, chainId: CHAIN_ID, verifyingContract: devnet.asset.address,
    },
    /** The key of teller's first signer, which everybody can derive on a local chain. */
    tellerSigner: privateKeyToAccount(keccak256(stringToHex("teller devnet signer 0"))),
    send: sender(client),
    giveEther: (address) => client.setBalance({ address, value: 1_000n * ETHER }),
  };
  await world.giveEther(BOSS);
  world.asBoss = (functionName, args) => world.send(BOSS, world.asset.address, dollarAbi, functionName, args);
  await Promise.all(payers.map(({ address }) => world.giveEther(address)));
  await Promise.all(payers.map(({ address }) => approve(world, address, MAX_UINT)));
  world.special = await specialAccounts(world);
  return world;
}

/** Sends as anybody, whether there is a key or not, and demands success. */
function sender(client) {
  // Numbered here: a node that is asked to number two transactions of one sender at the same time loses one of them.
  const nonces = new Map();
  return async (from, to, abi, functionName, args = []) => {
    const data = encodeFunctionData({ abi, functionName, args });
    const nonce = nonces.get(from) ?? client.getTransactionCount({ address: from });
    nonces.set(from, Promise.resolve(nonce).then((number) => number + 1));
    await client.impersonateAccount({ address: from });
    const hash = await client.sendTransaction({ account: from, to, data, nonce: await nonce, gas: 1_000_000n, gasPrice: GAS_PRICE, chain: null });
    const receipt = await client.waitForTransactionReceipt({ hash, timeout: 30_000 });
    if (receipt.status !== "success") throw new Error(`preparing the chain: ${functionName} of ${to} reverted`);
  };
}

export const approve = (world, owner, amount) =>
  world.send(owner, world.asset.address, dollarAbi, "approve", [CONTRACTS.permit2, amount]);

/** Gives `holder` test dollars of the first payer's. */
export const giveDollars = (world, holder, value) =>
  world.send(world.payers[0].address, world.asset.address, dollarAbi, "transfer", [holder, value]);

/** An account with this much, which has approved nothing. */
export async function newPayer(world, value, account = freshAccount()) {
  await world.giveEther(account.address);
  await giveDollars(world, account.address, value);
  await isOldNews(world);
  return account;
}

/** Until what is on the chain now is what everybody looks at: a facilitator may look at a block behind the newest. */
export async function isOldNews({ client }) {
  const known = await client.getBlockNumber({ cacheTime: 0 });
  while (await client.getBlockNumber({ cacheTime: 0 }) < known + 2n) await setTimeout(200);
}

/** The account's EIP-2612 nonce. */
export const nonceOf = (world, owner) =>
  world.client.readContract({ address: world.asset.address, abi: dollarAbi, functionName: "nonces", args: [owner] });

/** An account of its own for each state that a payer can be in. */
async function specialAccounts(world) {
  const [oneShort, blacklisted, noAllowance, lowAllowance, approvedOneShort] = await Promise.all([
    newPayer(world, AMOUNT - 1n),
    newPayer(world, 100n * AMOUNT),
    newPayer(world, 100n * AMOUNT),
    newPayer(world, 100n * AMOUNT),
    newPayer(world, AMOUNT - 1n),
  ]);
  const blacklistedPayee = freshAccount();
  await Promise.all([
    // With money of its own, the facilitator could pay itself.
    giveDollars(world, world.tellerSigner.address, 100n * AMOUNT),
    approve(world, lowAllowance.address, AMOUNT - 1n),
    approve(world, approvedOneShort.address, MAX_UINT),
    world.asBoss("blacklist", [blacklisted.address]),
    world.asBoss("blacklist", [blacklistedPayee.address]),
  ]);
  return { penniless: freshAccount(), oneShort, blacklisted, blacklistedPayee, noAllowance, lowAllowance, approvedOneShort };
}

/** Spends the authorization on the chain, as anybody may who has seen it. */
export async function spend(world, { from, to, value, validAfter, validBefore, nonce }, signature) {
  const relayer = await relayerOf(world);
  await world.send(relayer, world.asset.address, dollarAbi, "transferWithAuthorization",
    [from, to, BigInt(value), BigInt(validAfter), BigInt(validBefore), nonce, signature]);
  await isOldNews(world);
}

/** Cancels the authorization on the chain, as its payer asks. */
export async function cancel(world, account, nonce) {
  const signature = await account.signTypedData({
    domain: world.domain,
    types: { CancelAuthorization: AUTHORIZATION_TYPES.CancelAuthorization },
    primaryType: "CancelAuthorization",
    message: { authorizer: account.address, nonce },
  });
  const { v, r, s } = parseSignature(signature);
  const relayer = await relayerOf(world);
  await world.send(relayer, world.asset.address, dollarAbi, "cancelAuthorization", [account.address, nonce, Number(v), r, s]);
  await isOldNews(world);
}

async function relayerOf(world) {
  const { address } = freshAccount();
  await world.giveEther(address);
  return address;
}
