// Contract wallets as payers of `exact` with EIP-3009.

import { concatHex } from "viem";

import { AT, put } from "../eip3009.mjs";
import { CONTRACTS, freshAccount, now } from "../world.mjs";
import { newDelegated, newWallet, signedBy, walletRequest } from "../wallets.mjs";
import { ofParity, wrapped } from "./signatures.mjs";

/** One wallet for all cases: their nonces differ. */
function shared(make) {
  let made;
  return (world) => (made ??= make(world));
}

export const deployedRequest = walletRequest(shared((world) => newWallet(world, true).then(({ creation, ...wallet }) => wallet)));
export const delegatedRequest = walletRequest(shared(newDelegated));
/** A settled one is deployed afterwards, so each case gets its own. */
export const foreseenRequest = walletRequest((world) => newWallet(world, false));
/** The wallet is there and its signature still wrapped, as wallets do that cannot tell. */
export const wrappedRequest = walletRequest(shared((world) => newWallet(world, true)));

const signature = (name, change) => ({ name: `signature ${name}`, after: put(AT.signature, change) });
const signs = (name, changes) => ({ name, before: (draft) => { Object.assign(draft.authorization, changes()); } });

/** What every wallet is asked about. */
export const common = [
  { name: "a good payment" },
  { name: "another good payment" },
  signs("the value is one less", () => ({ value: "9999" })),
  signs("another recipient is paid", () => ({ to: freshAccount().address })),
  signs("it expired a minute ago", () => ({ validBefore: String(now() - 60) })),
  signs("it is valid from a minute on", () => ({ validAfter: String(now() + 60) })),
  { name: "extra.name is another", after: put(AT.extra("name"), "1 Coin") },
  { name: "extra.version is another", after: put(AT.extra("version"), "1 Coin") },
];

export const deployed = [
  ...common,
  { name: "signed by another account", after: signedBy(freshAccount()) },
  signature("is 0x", "0x"),
  signature("has a byte more", (good) => concatHex([good, "0x00"])),
  ofParity(0, "lacks its last byte, a 27", (good) => good.slice(0, -2)),
  ofParity(1, "lacks its last byte, a 28", (good) => good.slice(0, -2)),
  signature("has a bit flipped", (good) => `${good.slice(0, 20)}${good[20] === "0" ? "1" : "0"}${good.slice(21)}`),
];

/** The wallet signs, and a wrapper says how it comes to be. */
const inWrapper = (name, change) => ({
  name: `the wrapper ${name}`,
  after: async (body, world, draft) => {
    await signedBy(draft.wallet.owner)(body, world, draft);
    const { payload } = body.paymentPayload;
    payload.signature = change(payload.signature, draft.wallet.creation);
  },
});

export const foreseen = [
  ...common,
  {
    name: "signed by another account",
    after: async (body, world, draft) => {
      await signedBy(freshAccount())(body, world, draft);
      const { payload } = body.paymentPayload;
      payload.signature = wrapped(payload.signature, CONTRACTS.walletFactory, draft.wallet.creation);
    },
  },
  inWrapper("names another factory", (inner, creation) => wrapped(inner, CONTRACTS.multicall3, creation)),
  inWrapper("names no factory", (inner, creation) => wrapped(inner, `0x${"00".repeat(20)}`, creation)),
  inWrapper("creates nothing", (inner) => wrapped(inner)),
  inWrapper("is missing", (inner) => inner),
  inWrapper("is empty", () => `0x${"6492".repeat(16)}`),
];

/** Plain accounts that come in a wrapper. */
export const plainWrapped = [
  signature("is a plain account's in a wrapper of ERC-6492", (good) => wrapped(good)),
  signature("is in a wrapper with another factory", (good) => wrapped(good, CONTRACTS.multicall3)),
];
