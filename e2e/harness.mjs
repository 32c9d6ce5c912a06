// Starts a `teller dev` for one test file and reads its chain, with nothing but Node.
// What a test knows about teller is what any outsider knows: its flags, its environment, two lines of its output.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = path.resolve(fileURLToPath(import.meta.url), "../..");
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;
const LOG_LINES_KEPT = 200;
const TRANSFER_TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

/**
 * Starts `teller dev` without its own traffic, on free ports and in a temporary directory; `settings` are more of its environment.
 * Answers its URL, what it said about its devnet, and `stop`, which demands a clean end.
 */
export async function startTeller(settings = {}) {
  const binary = path.resolve(
    ROOT,
    process.env.TELLER_BIN ?? path.join(process.env.CARGO_TARGET_DIR ?? "target", "debug/teller"),
  );
  const directory = await mkdtemp(path.join(tmpdir(), "teller-e2e-"));
  const [rest, grpc, metrics] = await freePorts(3);
  const child = spawn(binary, ["dev", "--payments", "0"], {
    cwd: directory,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      ...process.env,
      TELLER_ANVIL: path.resolve(ROOT, process.env.TELLER_ANVIL ?? ".tools/bin/anvil"),
      TELLER__SERVER__REST: `127.0.0.1:${rest}`,
      TELLER__SERVER__GRPC: `127.0.0.1:${grpc}`,
      TELLER__SERVER__METRICS: `127.0.0.1:${metrics}`,
      ...settings,
    },
  });
  // A test run that is killed must not leave a teller, and its anvil, behind.
  const killChild = () => child.kill("SIGTERM");
  process.once("exit", killChild);
  const ended = new Promise((resolve) => {
    child.once("error", (error) => resolve(`could not be started: ${error.message}`));
    child.once("exit", (code, signal) => resolve(code ?? signal));
  });

  const log = [];
  const keep = (line) => {
    log.push(line);
    if (log.length > LOG_LINES_KEPT) log.shift();
  };
  const withLog = (message) => new Error(`${message}\n--- teller's last lines:\n${log.join("\n")}`);
  eachLine(child.stderr, keep);

  let devnet;
  const ready = new Promise((resolve, reject) => {
    let saidReady = false;
    eachLine(child.stdout, (line) => {
      keep(line);
      if (line.startsWith("devnet: ")) {
        try {
          devnet = JSON.parse(line.slice("devnet: ".length));
        } catch (error) {
          reject(error);
        }
      }
      saidReady ||= line.includes("teller is ready");
      if (saidReady && devnet) resolve();
    });
    ended.then((end) => reject(withLog(`teller dev ended before it was ready: ${end}`)));
  });

  async function stop() {
    process.off("exit", killChild);
    child.kill("SIGTERM");
    const end = await within(STOP_TIMEOUT_MS, ended, undefined);
    if (end === undefined) child.kill("SIGKILL");
    await rm(directory, { recursive: true, force: true });
    if (end !== 0) throw withLog(`teller dev should end with 0 on SIGTERM, it ended with ${end ?? "nothing in time"}`);
    if (await stillAnswers(devnet.rpc)) throw withLog(`teller dev left its chain behind at ${devnet.rpc}`);
  }

  try {
    await within(START_TIMEOUT_MS, ready, () => withLog("teller dev was not ready in time"));
  } catch (error) {
    child.kill("SIGKILL");
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
  return { url: `http://127.0.0.1:${rest}`, devnet, chain: chainOf(devnet), log, stop };
}

/** Serves an express app on a free loopback port; answers its URL and `stop`. */
export async function serve(app) {
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Reads of the devnet that are independent of teller and of the packages under test. */
function chainOf({ rpc, asset }) {
  async function call(method, params) {
    const ask = () => fetch(rpc, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
    // The node may close a connection just as it is used again.
    const response = await ask().catch(ask);
    const { result, error } = await response.json();
    assert.equal(error, undefined, `${method}: ${JSON.stringify(error)}`);
    return result;
  }

  return {
    /** The asset's balance of `owner`, in atomic units. */
    balanceOf: async (owner) =>
      BigInt(await call("eth_call", [{ to: asset.address, data: `0x70a08231${word(owner)}` }, "latest"])),

    /** The token's transfers from `payer` to `payTo` in the transaction, as amounts; the transaction must have succeeded. */
    transfersIn: async (transaction, payer, payTo, token = asset.address) => {
      const receipt = await call("eth_getTransactionReceipt", [transaction]);
      assert.ok(receipt, `there is no transaction ${transaction} on the chain`);
      assert.equal(receipt.status, "0x1", `transaction ${transaction} reverted`);
      return receipt.logs
        .filter(({ address }) => address.toLowerCase() === token.toLowerCase())
        .filter(({ topics: [topic, from, to] }) =>
          topic === TRANSFER_TOPIC && from === `0x${word(payer)}` && to === `0x${word(payTo)}`)
        .map(({ data }) => BigInt(data));
    },
  };
}

/** `count` numbers of ports that were free a moment ago, all different. */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map((server) => once(server, "listening")));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Whether something accepts requests at `url`, after a moment to go away. */
async function stillAnswers(url) {
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      await fetch(url);
    } catch {
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return true;
}

function eachLine(stream, take) {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text) => {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    lines.forEach(take);
  });
}

/** An address as an ABI word, without 0x. */
function word(address) {
  return address.slice(2).toLowerCase().padStart(64, "0");
}

/** The promise's value; after `ms`, `late`'s error, or undefined without one. */
async function within(ms, promise, late) {
  let timer;
  const timeout = new Promise((resolve, reject) => {
    timer = setTimeout(() => (late ? reject(late()) : resolve(undefined)), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Buys the weather once and demands the goods, an honest receipt, and exactly one transfer of `value` on the chain.
 * `buy` answers the shop's response and the receipt in it.
 */
export async function demandOneSale({ teller, payer, payTo, value, network }, buy) {
  const balances = () => Promise.all([payer.address, payTo].map(teller.chain.balanceOf));
  const [payerBefore, payeeBefore] = await balances();

  const { response, receipt } = await buy();

  assert.equal(response.status, 200, await response.clone().text());
  assert.equal((await response.json()).weather, "sunny");
  assert.equal(receipt.success, true);
  assert.equal(receipt.network, network);
  assert.equal(receipt.payer.toLowerCase(), payer.address.toLowerCase());
  assert.deepEqual(await teller.chain.transfersIn(receipt.transaction, payer.address, payTo), [value]);
  const [payerAfter, payeeAfter] = await balances();
  assert.equal(payerBefore - payerAfter, value);
  assert.equal(payeeAfter - payeeBefore, value);
}
