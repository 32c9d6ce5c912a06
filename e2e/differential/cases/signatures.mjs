// Signatures: their forms, who signed, and what else could have been signed.

import { concatHex, encodeAbiParameters, parseSignature, signatureToCompactSignature, serializeCompactSignature, toHex } from "viem";

import { AT, put, sign } from "../eip3009.mjs";
import { CONTRACTS, freshAccount, freshNonce, now } from "../world.mjs";

const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const MAGIC_6492 = `0x${"6492".repeat(16)}`;

const withV = (signature, v) => concatHex([signature.slice(0, -2), toHex(v, { size: 1 })]);
const parity = (signature) => parseSignature(signature).yParity;

/** The other signature of the same digest by the same key. */
function highS(signature) {
  const { r, s, yParity } = parseSignature(signature);
  return concatHex([r, toHex(ORDER - BigInt(s), { size: 32 }), toHex(28 - yParity, { size: 1 })]);
}

/** The wrapper of ERC-6492. */
export function wrapped(signature, factory = CONTRACTS.walletFactory, calldata = "0x") {
  const parts = [{ type: "address" }, { type: "bytes" }, { type: "bytes" }];
  return concatHex([encodeAbiParameters(parts, [factory, calldata, signature]), MAGIC_6492]);
}

const form = (name, change, more) => ({ name: `signature ${name}`, after: put(AT.signature, change), ...more });

/** The same of a signature with the given parity: authorizations are signed until one has it. */
export const ofParity = (wanted, name, change) => ({
  name: `signature ${name}`,
  after: async ({ paymentPayload: { payload } }, _, draft) => {
    while (parity(payload.signature) !== wanted) {
      draft.authorization.nonce = freshNonce();
      payload.signature = await sign(draft);
    }
    payload.signature = change(payload.signature);
  },
});

const forms = [
  form("is missing", undefined),
  form("is null", null),
  form("is a number", 7),
  form("is an object", {}),
  form("is empty", ""),
  form("is 0x", "0x"),
  form("has no 0x", (good) => good.slice(2)),
  form("is upper-case hex", (good) => `0x${good.slice(2).toUpperCase()}`),
  form("is a digit short", (good) => good.slice(0, -1)),
  form("is one byte", "0x01"),
  form("is 63 bytes", (good) => good.slice(0, 128)),
  ofParity(0, "lacks its last byte, a 27", (good) => good.slice(0, -2)),
  ofParity(1, "lacks its last byte, a 28", (good) => good.slice(0, -2)),
  form("is in the 64 byte form of ERC-2098", (good) =>
    serializeCompactSignature(signatureToCompactSignature(parseSignature(good)))),
  form("has a byte more", (good) => `${good}00`),
  form("is there twice", (good) => concatHex([good, good])),
  form("is all zeros", `0x${"00".repeat(65)}`),
  form("is not hex", `0x${"zz".repeat(65)}`),
  form("is 9,000 bytes", `0x${"ab".repeat(9000)}`),
  form("has v 0 or 1", (good) => withV(good, parity(good))),
  form("has the other v", (good) => withV(good, 28 - parity(good))),
  form("has v 29", (good) => withV(good, 29)),
  form("has v 2", (good) => withV(good, 2)),
  form("has v 255", (good) => withV(good, 255)),
  form("has a high s", highS),
  form("has r 0", (good) => concatHex([toHex(0n, { size: 32 }), `0x${good.slice(66)}`])),
  form("has s 0", (good) => concatHex([good.slice(0, 66), toHex(0n, { size: 32 }), `0x${good.slice(-2)}`])),
  form("has r beyond the order", (good) => concatHex([toHex(ORDER + 1n, { size: 32 }), `0x${good.slice(66)}`])),
  form("has a bit flipped", (good) => `${good.slice(0, 20)}${good[20] === "0" ? "1" : "0"}${good.slice(21)}`),
  form("is in a wrapper without a factory", (good) => wrapped(good, `0x${"00".repeat(20)}`)),
  form("ends in the magic of ERC-6492 without its wrapper", (good) => concatHex([good, MAGIC_6492])),
  form("is the magic of ERC-6492 alone", MAGIC_6492),
];

/** Signed over something else than what the payload says: `elsewhere` changes a copy of the draft. */
const signedOver = (what, elsewhere) => ({
  name: `signed ${what}`,
  after: async (body, world, draft) => {
    const other = { ...draft, domain: { ...draft.domain }, authorization: { ...draft.authorization } };
    elsewhere(other, world);
    body.paymentPayload.payload.signature = await sign(other);
  },
});

const contents = [
  signedOver("by another account", (draft) => { draft.account = freshAccount(); }),
  signedOver("by the facilitator", (draft, world) => { draft.account = world.tellerSigner; }),
  signedOver("over another payer", (draft) => { draft.authorization.from = freshAccount().address; }),
  signedOver("over another recipient", (draft) => { draft.authorization.to = freshAccount().address; }),
  signedOver("over a lower value", (draft) => { draft.authorization.value = "9999"; }),
  signedOver("over a higher value", (draft) => { draft.authorization.value = "10001"; }),
  signedOver("over another validAfter", (draft) => { draft.authorization.validAfter = "1"; }),
  signedOver("over another validBefore", (draft) => { draft.authorization.validBefore = String(now() + 3000); }),
  signedOver("over another nonce", (draft) => { draft.authorization.nonce = freshNonce(); }),
  signedOver("for another token name", (draft) => { draft.domain.name = "USD Coin"; }),
  signedOver("for another token version", (draft) => { draft.domain.version = "1"; }),
  signedOver("for another chain", (draft) => { draft.domain.chainId = 8453; }),
  signedOver("for another contract", (draft) => { draft.domain.verifyingContract = CONTRACTS.permitToken; }),
  signedOver("without a chain", (draft) => { delete draft.domain.chainId; }),
  signedOver("as ReceiveWithAuthorization", (draft) => { draft.primaryType = "ReceiveWithAuthorization"; }),
  {
    name: "signed as a personal message",
    after: async (body, _, draft) => {
      const raw = JSON.stringify(draft.authorization);
      body.paymentPayload.payload.signature = await draft.account.signMessage({ message: raw });
    },
  },
];

export const signatures = [...forms, ...contents];
