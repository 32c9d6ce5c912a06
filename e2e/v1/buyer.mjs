// A buyer with x402-fetch 1.x for e2e/matrix: orders come as lines on standard input, and each is answered by a line.

import { createInterface } from "node:readline";

import { privateKeyToAccount } from "viem/accounts";
import { decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, ...order } = JSON.parse(line);
  const answer = await buy(order).catch((error) => ({ error: error.stack }));
  console.log(JSON.stringify({ id, ...answer }));
});

async function buy({ url, key }) {
  const response = await wrapFetchWithPayment(fetch, privateKeyToAccount(key))(url);
  const header = response.headers.get("X-PAYMENT-RESPONSE") ?? response.headers.get("PAYMENT-RESPONSE");
  return { status: response.status, body: await response.text(), receipt: header ? decodeXPaymentResponse(header) : null };
}
