// A buyer with @x402/fetch.

import { wrapFetchWithPayment, x402Client } from "@x402/fetch";

import { clientOf, demandIn, receiptOf, takeOrders } from "./buyer.mjs";

takeOrders(async (order) => {
  const response = await wrapFetchWithPayment(fetch, clientOf(x402Client, order))(order.url);
  const header = response.headers.get("PAYMENT-RESPONSE") ?? response.headers.get("X-PAYMENT-RESPONSE");
  return { status: response.status, body: await response.text(), receipt: receiptOf(header), demand: demandIn(response.headers.get("PAYMENT-REQUIRED")) };
});
