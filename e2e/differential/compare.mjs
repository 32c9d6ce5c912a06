// What two facilitators say about one payment, brought into one form, and the differences that are allowed between them.

import { readFile } from "node:fs/promises";

/** The list that docs/conformance.md shows, and the only differences that the suite lets pass. */
export const LIST = new URL("./differences.json", import.meta.url);

/** What stands for a reference that threw instead of answering: an official server answers 500 then. */
export const THROWS = "(throws)";
export const VALID = "valid";

/** The verdict in an answer: `valid`, or the reason why not. */
export function verdict(endpoint, answer) {
  const [good, reason] = endpoint === "verify"
    ? [answer.isValid, answer.invalidReason]
    : [answer.success, answer.errorReason];
  if (typeof good !== "boolean") throw new Error(`no ${endpoint} answer: ${JSON.stringify(answer)}`);
  if (good) return VALID;
  if (!reason) throw new Error(`a refusal without a reason: ${JSON.stringify(answer)}`);
  return reason;
}

/** The listed differences, ready to be asked, each knowing how often it was met. */
export class Differences {
  static async load() {
    return new Differences(JSON.parse(await readFile(LIST, "utf8")));
  }

  constructor(entries) {
    this.entries = entries.map((entry) => ({
      ...entry,
      met: 0,
      // Every pattern has to be needed, or the list would go on allowing what no longer happens.
      patterns: entry.cases.map((pattern) => ({ pattern, matches: glob(pattern), met: 0 })),
      saysReference: refusalLike(entry.reference),
    }));
  }

  /** Whether this difference is listed; it counts as met then. */
  allows(name, { reference, teller }) {
    const found = this.entries.flatMap((entry) =>
      entry.teller === teller && entry.saysReference(reference)
        ? entry.patterns.filter(({ matches }) => matches(name)).map((pattern) => ({ entry, pattern }))
        : []);
    if (found.length === 0) return false;
    if (found.length > 1) {
      throw new Error(`${name} is listed more than once: ${found.map(({ pattern }) => pattern.pattern).join(", ")}`);
    }
    const [{ entry, pattern }] = found;
    entry.met += 1;
    pattern.met += 1;
    return true;
  }

  /** The patterns that no case needed, except those that are only about cases that were not asked. */
  unmet(notAsked) {
    return this.entries.flatMap(({ reference, teller, patterns }) => patterns
      .filter(({ met, matches }) => met === 0 && !notAsked.some(matches))
      .map(({ pattern }) => `${pattern}: ${reference} / ${teller}`));
  }
}

/** A verdict with `*` for any part of a reason; "valid" is never meant by one. */
const refusalLike = (pattern) => {
  const matches = glob(pattern);
  return (said) => said === pattern || (said !== VALID && matches(said));
};

/** A text with `*` for anything. */
function glob(pattern) {
  const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  const whole = new RegExp(`^${parts.join("[^]*")}$`);
  return (text) => whole.test(text);
}

/** `work` for each item, `width` at a time. */
export async function forEach(items, width, work) {
  const rest = [...items];
  await Promise.all(Array.from({ length: width }, async () => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await work(item);
  }));
}
