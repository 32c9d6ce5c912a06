// The texts that stand for numbers: every field of an EIP-3009 payment with every text that is no number or a strange one.

import { AT, put } from "../eip3009.mjs";

const MAX = (1n << 256n) - 1n;

/** What each text makes of a field whose good value is `good`. */
const WRONG = {
  "is missing": undefined,
  "is null": null,
  "is true": true,
  "is an array": [],
  "is an object": {},
  "is empty": "",
  "is blank": " ",
  "has blanks around": (good) => ` ${good} `,
  "is negative": (good) => `-${good}`,
  "has a plus": (good) => `+${good}`,
  "has a fraction": (good) => `${good}.0`,
  "has an exponent": (good) => `${good}e0`,
  "is a word": "ten",
  "is not hex": "0xzz",
  "has an underscore": (good) => `${good}_0`,
  "is a number with a fraction": (good) => Number(good) + 0.5,
  "is a negative number": (good) => -Number(good) - 1,
  "does not fit in 256 bits": String(MAX + 1n),
};

/** The same number in another form. */
const SAME = {
  "is a JSON number": (good) => Number(good),
  "is hex": (good) => `0x${BigInt(good).toString(16)}`,
  "is upper-case hex": (good) => `0x${BigInt(good).toString(16).toUpperCase()}`,
  "has leading zeros": (good) => `000${good}`,
};

const FIELDS = {
  "authorization.value": AT.signed("value"),
  "authorization.validAfter": AT.signed("validAfter"),
  "authorization.validBefore": AT.signed("validBefore"),
  "requirements.amount": AT.demanded("amount"),
};

export const numbers = Object.entries(FIELDS).flatMap(([field, path]) =>
  [...Object.entries(WRONG), ...Object.entries(SAME)].map(([what, value]) => ({
    name: `${field} ${what}`,
    // What is refused as a shape is refused the same way at settle; the forms of a good number are settled too.
    settle: what in SAME,
    after: put(path, value),
  })));

const maxTimeout = (what, value) =>
  ({ name: `requirements.maxTimeoutSeconds ${what}`, after: put(AT.demanded("maxTimeoutSeconds"), value) });

export const timeouts = [
  maxTimeout("is 0", 0),
  maxTimeout("is missing", undefined),
  maxTimeout("is null", null),
  maxTimeout("is negative", -1),
  maxTimeout("is a string", "300"),
  maxTimeout("is a word", "soon"),
];
