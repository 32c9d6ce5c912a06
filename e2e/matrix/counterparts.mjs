// The official buyers and shops, each a process of its own, and what each of them speaks.

import { spawn } from "node:child_process";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const E2E = path.resolve(fileURLToPath(import.meta.url), "../..");
const ROOT = path.dirname(E2E);
const PYTHON = path.resolve(ROOT, process.env.TELLER_E2E_PYTHON ?? ".tools/python/bin/python");
const RUST = path.resolve(ROOT, process.env.TELLER_E2E_RUST ?? "target/counterpart/debug/counterpart");
const START_TIMEOUT_MS = 60_000;
const ANSWER_TIMEOUT_MS = 60_000;
const STDERR_KEPT = 4_000;

const node = (file) => [process.execPath, path.join(E2E, file)];
const python = (file, ...args) => [PYTHON, path.join(E2E, "python", file), ...args];

const ALL_WAYS = { 1: ["eip3009"], 2: ["eip3009", "permit2", "upto"] };
const APPROVALS = ["approval for exact", "approval for upto"];
const AND_EXTENSIONS = {
  1: ALL_WAYS[1],
  2: [...ALL_WAYS[2], "eip2612 for exact", "eip2612 for upto", ...APPROVALS, "payment-identifier", "bazaar", "builder-code"],
};
/** What @x402/axios has of them: its older core puts the buyer's part of an extension in place of the shop's, which shops refuse. */
const AXIOS_WAYS = { 1: ALL_WAYS[1], 2: [...ALL_WAYS[2], "payment-identifier", "bazaar"] };
/** An account, also one without a wei, and what contracts judge. */
const EVERY_SIGNATURE = ["EOA", "EOA without gas", "EIP-7702", "ERC-1271", "ERC-6492"];
/** Whoever signs with an account's key alone can do it for an account that has code, too. */
const BY_KEY = ["EOA", "EIP-7702"];
/** Whose payments a shop is tried with, by the way of paying. A shop passes on what it is sent, so that one of each language will do. */
const FROM_SOME = { eip3009: ["EOA", "ERC-1271", "ERC-6492"] };
const BY_PERMIT = ["EOA", "EIP-7702", "ERC-1271"];
/** Permit2 knows no wallets that are not there yet. Who pays with an approval needs gas for it, or is given some. */
const FROM_ALL = {
  eip3009: [...BY_PERMIT, "ERC-6492"], permit2: BY_PERMIT, upto: BY_PERMIT,
  ...Object.fromEntries(APPROVALS.map((way) => [way, ["EOA", "EOA without gas"]])),
};

/** Who buys: what it speaks in each version, and whose signatures it can be made to send. */
export const BUYERS = [
  { name: "@x402/fetch", command: node("matrix/ts/fetch.mjs"), speaks: AND_EXTENSIONS, signatures: EVERY_SIGNATURE },
  { name: "@x402/axios", command: node("matrix/ts/axios.mjs"), speaks: AXIOS_WAYS, signatures: EVERY_SIGNATURE },
  { name: "x402-fetch", command: node("v1/buyer.mjs"), speaks: { 1: ["eip3009"] }, signatures: BY_KEY },
  { name: "python httpx", command: python("buyer.py", "httpx"), speaks: AND_EXTENSIONS, signatures: EVERY_SIGNATURE },
  { name: "python requests", command: python("buyer.py", "requests"), speaks: AND_EXTENSIONS, signatures: EVERY_SIGNATURE },
  {
    name: "x402-reqwest", command: [RUST, "buyer"], speaks: { 1: ALL_WAYS[1], 2: [...ALL_WAYS[2], "eip2612 for upto", "bazaar"] }, signatures: BY_KEY,
    // It sends its own part of that extension without the shop's, which all other shops refuse.
    onlyIn: { "eip2612 for upto": "x402-axum" },
  },
];

/** Who sells: to whom, what it speaks in each version, and what it charges under `upto`. */
export const SHOPS = [
  { name: "@x402/express", command: node("matrix/ts/express.mjs"), from: FROM_ALL, speaks: { 2: AND_EXTENSIONS[2] }, charges: 4_000n },
  { name: "@x402/hono", command: node("matrix/ts/hono.mjs"), from: FROM_SOME, speaks: { 2: AND_EXTENSIONS[2] }, charges: 4_000n },
  { name: "x402-express", command: node("v1/shop.mjs"), from: FROM_ALL, speaks: { 1: ["eip3009"] } },
  { name: "python fastapi", command: python("shop_fastapi.py"), from: FROM_ALL, speaks: { 2: AND_EXTENSIONS[2] }, charges: 4_000n },
  { name: "python flask", command: python("shop_flask.py"), from: FROM_SOME, speaks: { 2: AND_EXTENSIONS[2] }, charges: 4_000n },
  { name: "x402-axum", command: [RUST, "shop"], from: FROM_SOME, speaks: { 1: ALL_WAYS[1], 2: [...ALL_WAYS[2], "eip2612 for exact", "eip2612 for upto"] }, charges: 10_000n },
];

/** Opens a shop; answers its `url`. */
export async function openShop({ name, command: [program, ...args] }, order) {
  const child = start(name, program, [...args, JSON.stringify(order)]);
  return child.nextLine(START_TIMEOUT_MS);
}

/** Starts a buyer; `buy` sends it an order and waits for its answer. */
export function startBuyer({ name, command: [program, ...args] }) {
  const child = start(name, program, args);
  let orders = 0;
  return {
    buy: (order) => {
      const id = ++orders;
      child.write({ id, ...order });
      return child.nextLine(ANSWER_TIMEOUT_MS, (answer) => answer.id === id);
    },
  };
}

const running = new Set();
process.once("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** Ends every buyer and every shop, those too that never opened. */
export async function stopAll() {
  await Promise.all([...running].map((child) => new Promise((resolve) => {
    child.once("close", resolve);
    child.kill("SIGKILL");
  })));
}

/** A process that speaks in lines of JSON. Whoever waits for a line is told when the process ends instead. */
function start(name, program, args) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
  running.add(child);
  let errors = "";
  let end;
  const lines = [];
  const waiting = new Set();
  const failure = (what) => new Error(`${name} ${what}\n${errors}`);

  child.stderr.setEncoding("utf8").on("data", (text) => { errors = (errors + text).slice(-STDERR_KEPT); });
  child.stdin.on("error", () => {}); // Its end is reported below.
  const lookAgain = () => [...waiting].forEach((look) => look());
  const over = (how) => {
    end ??= how;
    running.delete(child);
    lookAgain();
  };
  createInterface({ input: child.stdout }).on("line", (line) => {
    // Anything else that the packages print is for people.
    if (line.startsWith("{")) lines.push(JSON.parse(line));
    else errors = (errors + line).slice(-STDERR_KEPT);
    lookAgain();
  });
  child.once("error", (error) => over(`could not be started: ${error.message}`));
  child.once("close", (code, signal) => over(`ended with ${code ?? signal}`));

  return {
    write: (order) => child.stdin.write(`${JSON.stringify(order)}\n`),
    nextLine: (timeoutMs, fits = () => true) => new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        clearTimeout(timer);
        waiting.delete(look);
        settle(value);
      };
      const look = () => {
        const found = lines.findIndex(fits);
        if (found >= 0) finish(resolve, lines.splice(found, 1)[0]);
        else if (end) finish(reject, failure(end));
      };
      const timer = setTimeout(() => finish(reject, failure(`said nothing for ${timeoutMs} ms`)), timeoutMs);
      waiting.add(look);
      look();
    }),
  };
}
