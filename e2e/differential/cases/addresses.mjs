// The texts that stand for addresses, nonces and other bytes.

import { AT, put } from "../eip3009.mjs";

const upper = (text) => `0x${text.slice(2).toUpperCase()}`;
/** Upper case where the checksum has lower case and the other way round: as wrong as a checksum gets. */
const swapped = (text) => `0x${[...text.slice(2)].map((letter) =>
  letter === letter.toLowerCase() ? letter.toUpperCase() : letter.toLowerCase()).join("")}`;

const WRONG = {
  "is missing": undefined,
  "is null": null,
  "is a number": 7,
  "is an object": {},
  "is empty": "",
  "is 0x": "0x",
  "has no 0x": (good) => good.slice(2),
  "starts with 0X": (good) => `0X${good.slice(2)}`,
  "is a digit short": (good) => good.slice(0, -1),
  "is a byte short": (good) => good.slice(0, -2),
  "is a byte long": (good) => `${good}00`,
  "is not hex": (good) => `${good.slice(0, -1)}g`,
  "has a blank behind": (good) => `${good} `,
};
const SAME = {
  "is all lower case": (good) => good.toLowerCase(),
  "is all upper case": upper,
  "has a wrong checksum": swapped,
};

const FIELDS = {
  "authorization.from": AT.signed("from"),
  "authorization.to": AT.signed("to"),
  "authorization.nonce": AT.signed("nonce"),
  "requirements.asset": AT.demanded("asset"),
  "requirements.payTo": AT.demanded("payTo"),
};

export const addresses = Object.entries(FIELDS).flatMap(([field, path]) =>
  [...Object.entries(WRONG), ...Object.entries(SAME)].map(([what, value]) => ({
    name: `${field} ${what}`,
    settle: what in SAME,
    after: put(path, value),
  })));
