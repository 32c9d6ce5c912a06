// Permit2 under `exact` and `upto`: the same permits, the same faults.

import { concatHex, parseAbi } from "viem";

import { AT, put } from "../eip3009.mjs";
import { permitAt, signPermit } from "../permit2.mjs";
import { CONTRACTS, freshAccount, freshNonce, isOldNews, now } from "../world.mjs";

const MAX = String((1n << 256n) - 1n);
const permit2Abi = parseAbi(["function invalidateUnorderedNonces(uint256 word, uint256 mask)"]);

const permits = (name, change) => ({ name, before: (draft, world) => change(draft.permit, world) });
const demands = (name, field, value) => ({ name, after: put(AT.demanded(field), value) });
const ofAnother = (name, pick) => ({
  name,
  before: (draft, world) => {
    draft.account = pick(world);
    draft.permit.from = draft.account.address;
  },
});

const terms = [
  { name: "a good payment" },
  { name: "another good payment" },
  permits("the nonce is small", (permit) => { permit.nonce = String(BigInt(freshNonce()) >> 200n); }),
  permits("the spender is the other proxy", (permit) => {
    permit.spender = permit.spender === CONTRACTS.exactProxy ? CONTRACTS.uptoProxy : CONTRACTS.exactProxy;
  }),
  permits("the spender is an account", (permit) => { permit.spender = freshAccount().address; }),
  permits("another recipient is paid", (permit) => { permit.witness.to = freshAccount().address; }),
  demands("another recipient is demanded", "payTo", () => freshAccount().address),
  permits("it expired a minute ago", (permit) => { permit.deadline = String(now() - 60); }),
  permits("it expires in three seconds", (permit) => { permit.deadline = String(now() + 3); }),
  permits("it never was valid", (permit) => { permit.deadline = "0"; }),
  permits("it is valid for a day", (permit) => { permit.deadline = String(now() + 86_400); }),
  permits("it is valid from a minute on", (permit) => { permit.witness.validAfter = String(now() + 60); }),
  permits("it is valid since a minute", (permit) => { permit.witness.validAfter = String(now() - 60); }),
  permits("it is valid forever", (permit) => { permit.deadline = MAX; }),
  permits("it is never valid", (permit) => { permit.witness.validAfter = MAX; }),
  permits("the amount is one less", (permit) => { permit.permitted.amount = "9999"; }),
  permits("the amount is one more", (permit) => { permit.permitted.amount = "10001"; }),
  permits("the amount is the highest", (permit) => { permit.permitted.amount = MAX; }),
  permits("another token is permitted", (permit) => { permit.permitted.token = CONTRACTS.plainToken; }),
  demands("another token is demanded", "asset", CONTRACTS.plainToken),
  {
    name: "there is no contract at the asset",
    before: (draft) => {
      draft.requirements.asset = draft.permit.permitted.token = "0x1111111111111111111111111111111111111111";
    },
  },
  { name: "extra is missing", after: put(AT.demanded("extra"), undefined) },
  { name: "extra.name is missing", after: put(AT.extra("name"), undefined) },
  { name: "assetTransferMethod is missing", after: put(AT.extra("assetTransferMethod"), undefined) },
  { name: "assetTransferMethod is eip3009", after: put(AT.extra("assetTransferMethod"), "eip3009") },
  { name: "the payload has another scheme", after: put("paymentPayload.accepted.scheme", "barter") },
  { name: "the payload has another network", after: put("paymentPayload.accepted.network", "eip155:8453") },
];

const state = [
  ofAnother("the payer has nothing", (world) => world.special.penniless),
  ofAnother("the payer has approved nothing", (world) => world.special.noAllowance),
  ofAnother("the payer has approved one unit too little", (world) => world.special.lowAllowance),
  ofAnother("the payer has approved and lacks one unit", (world) => world.special.approvedOneShort),
  {
    name: "the nonce is used",
    after: async (_, world, { account, permit }) => {
      const nonce = BigInt(permit.nonce);
      await world.giveEther(account.address);
      await world.send(account.address, CONTRACTS.permit2, permit2Abi, "invalidateUnorderedNonces",
        [nonce >> 8n, 1n << (nonce & 255n)]);
      await isOldNews(world);
    },
  },
];

const signature = (name, change) => ({ name: `signature ${name}`, after: put(AT.signature, change) });
const signedOver = (what, elsewhere) => ({
  name: `signed ${what}`,
  after: async (body, world, draft) => {
    const other = { ...draft, domain: { ...draft.domain }, permit: structuredClone(draft.permit) };
    elsewhere(other, world);
    body.paymentPayload.payload.signature = await signPermit(other);
  },
});
const signatures = [
  signature("is 0x", "0x"),
  signature("is missing", undefined),
  signature("is null", null),
  signature("has a byte more", (good) => concatHex([good, "0x00"])),
  signature("is 63 bytes", (good) => good.slice(0, 128)),
  signature("is all zeros", `0x${"00".repeat(65)}`),
  signature("has a bit flipped", (good) => `${good.slice(0, 20)}${good[20] === "0" ? "1" : "0"}${good.slice(21)}`),
  signedOver("by another account", (draft) => { draft.account = freshAccount(); }),
  signedOver("over another recipient", (draft) => { draft.permit.witness.to = freshAccount().address; }),
  signedOver("over a higher amount", (draft) => { draft.permit.permitted.amount = "10001"; }),
  signedOver("over another token", (draft) => { draft.permit.permitted.token = CONTRACTS.plainToken; }),
  signedOver("over another nonce", (draft) => { draft.permit.nonce = "7"; }),
  signedOver("over another deadline", (draft) => { draft.permit.deadline = String(now() + 3000); }),
  signedOver("over another validAfter", (draft) => { draft.permit.witness.validAfter = "1"; }),
  signedOver("over another spender", (draft) => { draft.permit.spender = freshAccount().address; }),
  signedOver("for another chain", (draft) => { draft.domain.chainId = 8453; }),
  signedOver("for another contract", (draft) => { draft.domain.verifyingContract = CONTRACTS.multicall3; }),
  signedOver("with a version in the domain", (draft) => { draft.domain.version = "1"; }),
];

const SHAPES = { "is missing": undefined, "is null": null, "is an object": {}, "is a word": "ten", "has a fraction": "7.5" };
const shapes = ["from", "spender", "nonce", "deadline", "permitted", "witness", "permitted.token", "permitted.amount",
  "witness.to", "witness.validAfter"].flatMap((field) => Object.entries(SHAPES)
  .map(([what, value]) => ({ name: `permit.${field} ${what}`, settle: false, after: put(permitAt(field), value) })));

const SAME = {
  "is hex": (good) => `0x${BigInt(good).toString(16)}`,
  "has leading zeros": (good) => `00${good}`,
};
const forms = [
  ...["permitted.amount", "deadline", "nonce"].flatMap((field) => Object.entries(SAME)
    .map(([what, value]) => ({ name: `permit.${field} ${what}`, after: put(permitAt(field), value) }))),
  { name: "permit.from is in lower case", after: put(permitAt("from"), (good) => good.toLowerCase()) },
  { name: "permit.spender is in lower case", after: put(permitAt("spender"), (good) => good.toLowerCase()) },
  { name: "permit.witness.to is in lower case", after: put(permitAt("witness.to"), (good) => good.toLowerCase()) },
  { name: "unknown members in the permit", after: put(permitAt("unknown"), { here: 1 }) },
  { name: "an authorization beside the permit", after: put(`${AT.payload}.authorization`, { from: "nobody" }) },
];

/** What both schemes share. */
export const permit2 = [...terms, ...state, ...signatures, ...shapes, ...forms];

const charges = (name, amount) => ({ name, endpoints: ["settle"], after: put(AT.demanded("amount"), amount) });

/** What `upto` alone has: who may settle, and how much. */
export const upto = [
  permits("the facilitator is another", (permit) => { permit.witness.facilitator = freshAccount().address; }),
  permits("the facilitator is nobody", (permit) => { permit.witness.facilitator = `0x${"00".repeat(20)}`; }),
  { name: "the facilitator is missing", settle: false, after: put(permitAt("witness.facilitator"), undefined) },
  signedOver("over another facilitator", (draft) => { draft.permit.witness.facilitator = freshAccount().address; }),
  charges("half is charged", "5000"),
  charges("one unit is charged", "1"),
  charges("nothing is charged", "0"),
  charges("one unit more is charged than permitted", "10001"),
  charges("the highest is charged", MAX),
];
