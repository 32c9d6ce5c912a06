// Versions, schemes, networks and the shape of the body as a whole.

import { AT, all, put } from "../eip3009.mjs";

const both = (name, key, value) => ({
  name,
  before: (draft) => {
    if (value === undefined) delete draft.requirements[key];
    else draft.requirements[key] = value;
  },
});
const chosen = (version) => (version === 1 ? "paymentPayload" : "paymentPayload.accepted");
const payloadAlone = (name, key, value) => ({
  name,
  after: (body) => put(`${chosen(body.x402Version)}.${key}`, value)(body),
});

const versions = [
  { name: "the version is 0", after: all(put("x402Version", 0), put("paymentPayload.x402Version", 0)) },
  { name: "the version is 3", after: all(put("x402Version", 3), put("paymentPayload.x402Version", 3)) },
  { name: "the version is a string", after: put("paymentPayload.x402Version", (version) => String(version)) },
  { name: "the version is 1.5", after: put("paymentPayload.x402Version", 1.5) },
  { name: "the payload has no version", after: put("paymentPayload.x402Version", undefined) },
  { name: "the payload's version is null", after: put("paymentPayload.x402Version", null) },
  { name: "the body has no version", after: put("x402Version", undefined) },
  { name: "the body's version is another", after: put("x402Version", (version) => 3 - version) },
];

const schemes = [
  both("a scheme that nobody knows", "scheme", "barter"),
  both("the scheme is in capitals", "scheme", "EXACT"),
  both("the scheme is empty", "scheme", ""),
  both("the scheme is missing", "scheme", undefined),
  both("the scheme is null", "scheme", null),
  both("the scheme is a number", "scheme", 1),
  payloadAlone("the payload has another scheme", "scheme", "upto"),
  payloadAlone("the payload has no scheme", "scheme", undefined),
  payloadAlone("the payload's scheme is null", "scheme", null),
  { name: "the requirements have another scheme", after: put(AT.demanded("scheme"), "barter") },
];

const networks = [
  both("a chain that nobody serves", "network", "eip155:424242"),
  both("the name of a chain that nobody serves", "network", "pluto"),
  both("another known chain", "network", "eip155:8453"),
  both("the name of another known chain", "network", "base"),
  both("the name of the chain in version 2 and its id in version 1", "network", undefined),
  both("a chain of another family", "network", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"),
  both("a wildcard", "network", "eip155:*"),
  both("a chain id that is no number", "network", "eip155:sepolia"),
  both("a chain id with leading zeros", "network", "eip155:084532"),
  both("the family in capitals", "network", "EIP155:84532"),
  both("the name in capitals", "network", "Base-Sepolia"),
  both("the network is empty", "network", ""),
  both("the network is missing", "network", undefined),
  both("the network is null", "network", null),
  both("the network is a number", "network", 84532),
  payloadAlone("the payload has another network", "network", "eip155:8453"),
  payloadAlone("the payload has another network's name", "network", "base"),
  payloadAlone("the payload has no network", "network", undefined),
  { name: "the requirements have another network", after: put(AT.demanded("network"), "eip155:8453") },
  { name: "the requirements have another network's name", after: put(AT.demanded("network"), "base") },
].map((one) => (one.name.startsWith("the name of the chain in version 2") ? { ...one, before: swapForms } : one));

/** Each version with the network as the other one writes it. */
function swapForms(draft) {
  draft.requirements.network = draft.version === 1 ? "eip155:84532" : "base-sepolia";
}

const NOTHING = { missing: undefined, null: null, "an array": [], "a string": "payment", "a number": 7, empty: {} };
const shapesOf = (what, path, more) => Object.entries(NOTHING).map(([shape, value]) =>
  ({ name: `${what} is ${shape}`, after: put(path, value), ...more }));

const shapes = [
  ...shapesOf("paymentPayload", "paymentPayload"),
  ...shapesOf("paymentRequirements", "paymentRequirements"),
  ...shapesOf("payload", AT.payload),
  ...shapesOf("authorization", `${AT.payload}.authorization`),
  ...shapesOf("accepted", "paymentPayload.accepted", { versions: [2] }),
];

const kinds = [
  { name: "the payload has a delegation beside", after: put(`${AT.payload}.delegationManager`, "0x1111111111111111111111111111111111111111") },
  { name: "the payload has a permit instead", versions: [1], after: all(
    put(`${AT.payload}.permit2Authorization`, (_, body) => ({ from: body.paymentPayload.payload.authorization.from })),
    put(`${AT.payload}.authorization`, undefined)) },
];

export { kinds, networks, schemes, shapes, versions };
