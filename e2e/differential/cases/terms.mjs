// What was signed against what is demanded, the token's domain, the chain's state, and payments that are good.

import { AT, all, put } from "../eip3009.mjs";
import { CONTRACTS, NETWORKS, cancel, freshAccount, freshNonce, now, spend } from "../world.mjs";

const MAX = String((1n << 256n) - 1n);
const signs = (name, changes) => ({
  name,
  before: (draft) => { Object.assign(draft.authorization, typeof changes === "function" ? changes() : changes); },
});
const demands = (name, field, value) => ({ name, after: put(AT.demanded(field), value) });

const good = [
  { name: "a good payment" },
  { name: "another good payment" },
  {
    name: "a payment of the official client",
    before: (draft) => {
      draft.authorization.validAfter = draft.version === 1 ? String(now() - 600) : "0";
      draft.authorization.validBefore = String(now() + draft.requirements.maxTimeoutSeconds);
    },
  },
  signs("the nonce is small", () => ({ nonce: `0x${freshNonce().slice(-8).padStart(64, "0")}` })),
  signs("the nonce is large", () => ({ nonce: `0x${freshNonce().slice(-8).padStart(64, "f")}` })),
  {
    name: "the payment is of nothing",
    before: (draft) => {
      draft.authorization.value = "0";
      draft.requirements[draft.version === 1 ? "maxAmountRequired" : "amount"] = "0";
    },
  },
  {
    name: "the payer pays itself",
    before: (draft) => {
      draft.authorization.to = draft.account.address;
      draft.requirements.payTo = draft.account.address;
    },
  },
  {
    name: "the payee is the asset itself",
    before: (draft, world) => {
      draft.authorization.to = world.asset.address;
      draft.requirements.payTo = world.asset.address;
    },
  },
];

const terms = [
  signs("the value is one less", { value: "9999" }),
  signs("the value is one more", { value: "10001" }),
  signs("the value is nothing", { value: "0" }),
  signs("the value is the highest", { value: MAX }),
  demands("more is demanded", "amount", "10001"),
  demands("less is demanded", "amount", "9999"),
  demands("nothing is demanded", "amount", "0"),
  demands("the highest is demanded", "amount", MAX),
  signs("another recipient is paid", () => ({ to: freshAccount().address })),
  signs("nobody is paid", { to: `0x${"00".repeat(20)}` }),
  demands("another recipient is demanded", "payTo", () => freshAccount().address),
  signs("it expired long ago", { validBefore: "1" }),
  signs("it never was valid", { validBefore: "0" }),
  signs("it expired a minute ago", () => ({ validBefore: String(now() - 60) })),
  signs("it expires in three seconds", () => ({ validBefore: String(now() + 3) })),
  signs("it is valid for a day", () => ({ validBefore: String(now() + 86_400) })),
  signs("it is valid for a million years", { validBefore: String(32_000_000_000_000) }),
  signs("it is valid until the end of 64-bit time", { validBefore: String((1n << 63n) - 1n) }),
  signs("it is valid beyond 64-bit time", { validBefore: String(1n << 64n) }),
  signs("it is valid forever", { validBefore: MAX }),
  signs("it is valid from a minute on", () => ({ validAfter: String(now() + 60) })),
  signs("it is valid from a day on", () => ({ validAfter: String(now() + 86_400), validBefore: String(now() + 90_000) })),
  signs("it is never valid", { validAfter: MAX }),
  signs("it is valid since a minute", () => ({ validAfter: String(now() - 60) })),
  signs("it ends before it begins", () => ({ validAfter: String(now() + 200), validBefore: String(now() + 100) })),
];

const named = (name, field, value) => ({ name, after: put(AT.extra(field), value) });
const domain = [
  demands("extra is missing", "extra", undefined),
  demands("extra is null", "extra", null),
  demands("extra is empty", "extra", {}),
  demands("extra is a string", "extra", "USDC"),
  demands("extra is an array", "extra", ["USDC", "2"]),
  ...["name", "version"].flatMap((field) => [
    named(`extra.${field} is missing`, field, undefined),
    named(`extra.${field} is null`, field, null),
    named(`extra.${field} is empty`, field, ""),
    named(`extra.${field} is another`, field, "1 Coin"),
    named(`extra.${field} has a blank behind`, field, (text) => `${text} `),
    named(`extra.${field} is a number`, field, 2),
    named(`extra.${field} is an object`, field, {}),
  ]),
  named("extra.name is in lower case", "name", (text) => text.toLowerCase()),
  {
    name: "another token name is demanded and signed",
    before: (draft) => { draft.domain.name = draft.requirements.extra.name = "USD Coin"; },
  },
  {
    name: "another token version is demanded and signed",
    before: (draft) => { draft.domain.version = draft.requirements.extra.version = "1"; },
  },
];

const ofAnother = (name, pick) => ({
  name,
  before: (draft, world) => {
    draft.account = pick(world);
    draft.authorization.from = draft.account.address;
  },
});
const toAnother = (name, pick) => ({
  name,
  before: (draft, world) => { draft.authorization.to = draft.requirements.payTo = pick(world); },
});
const inAnother = (name, asset) => ({
  name,
  before: (draft) => { draft.requirements.asset = draft.domain.verifyingContract = asset; },
});

const state = [
  ofAnother("the payer has nothing", (world) => world.special.penniless),
  ofAnother("the payer lacks one unit", (world) => world.special.oneShort),
  ofAnother("the payer is blacklisted", (world) => world.special.blacklisted),
  toAnother("the payee is blacklisted", (world) => world.special.blacklistedPayee.address),
  ofAnother("the payer is the facilitator", (world) => world.tellerSigner),
  toAnother("the payee is the facilitator", (world) => world.tellerSigner.address),
  toAnother("the payee is the zero address", () => `0x${"00".repeat(20)}`),
  {
    name: "the nonce is used",
    after: async (body, world) => {
      const { authorization, signature } = body.paymentPayload.payload;
      await spend(world, authorization, signature);
    },
  },
  {
    name: "the nonce is cancelled",
    after: async (body, world, draft) => cancel(world, draft.account, draft.authorization.nonce),
  },
  {
    name: "the nonce of another payer is used",
    before: async (draft, world) => {
      const [used] = world.payers;
      const nonce = freshNonce();
      await cancel(world, used, nonce);
      draft.account = world.payers[1];
      Object.assign(draft.authorization, { from: draft.account.address, nonce });
    },
  },
  inAnother("there is no contract at the asset", "0x1111111111111111111111111111111111111111"),
  inAnother("the asset is no token", CONTRACTS.multicall3),
  inAnother("the asset is a token without EIP-3009", CONTRACTS.plainToken),
  inAnother("the asset is a token with EIP-2612 alone", CONTRACTS.permitToken),
];

const unknown = { anything: ["goes", { here: 1 }] };
const tolerated = [
  { name: "unknown members beside the payload", after: all(put("unknown", unknown), put("paymentPayload.unknown", unknown)) },
  { name: "unknown members in the payload", after: put("paymentPayload.payload.unknown", unknown) },
  { name: "unknown members in the authorization", after: put(AT.signed("unknown"), unknown) },
  { name: "unknown members in the requirements", after: put(AT.demanded("unknown"), unknown) },
  { name: "unknown members in extra", after: put(AT.extra("unknown"), unknown) },
  { name: "unknown members in accepted", versions: [2], after: put("paymentPayload.accepted.unknown", unknown) },
  { name: "an unknown extension", versions: [2], after: put("paymentPayload.extensions", { unknown }) },
  { name: "extensions are null", versions: [2], after: put("paymentPayload.extensions", null) },
  { name: "no resource", versions: [2], after: put("paymentPayload.resource", undefined) },
  { name: "the resource is null", versions: [2], after: put("paymentPayload.resource", null) },
  { name: "the resource is no URL", versions: [2], after: put("paymentPayload.resource", { url: "weather" }) },
  { name: "accepted has another amount", versions: [2], after: put("paymentPayload.accepted.amount", "1") },
  { name: "accepted has another payTo", versions: [2], after: put("paymentPayload.accepted.payTo", CONTRACTS.permit2) },
  { name: "accepted has another asset", versions: [2], after: put("paymentPayload.accepted.asset", CONTRACTS.plainToken) },
  { name: "accepted has no extra", versions: [2], after: put("paymentPayload.accepted.extra", undefined) },
  { name: "accepted has scheme and network alone", versions: [2], after: put("paymentPayload.accepted", { scheme: "exact", network: NETWORKS[2] }) },
  { name: "no resource, description or mimeType", versions: [1], after: all(...["resource", "description", "mimeType", "outputSchema"].map((field) => put(AT.demanded(field), undefined))) },
  { name: "resource, description and mimeType are null", versions: [1], after: all(...["resource", "description", "mimeType"].map((field) => put(AT.demanded(field), null))) },
  named("assetTransferMethod is eip3009", "assetTransferMethod", "eip3009"),
  named("paymentFlow is upfront", "paymentFlow", "upfront"),
  named("assetTransferMethod is permit2", "assetTransferMethod", "permit2"),
  named("assetTransferMethod is unknown", "assetTransferMethod", "pigeon"),
];

export { domain, good, state, terms, tolerated };
