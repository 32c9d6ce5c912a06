// A buyer with @x402/axios.

import { wrapAxiosWithPayment, x402Client } from "@x402/axios";
import axios from "axios";

import { clientOf, demandIn, receiptOf, takeOrders } from "./buyer.mjs";

takeOrders(async (order) => {
  // A 402 has to reach the package as an error, so nothing is said of statuses here.
  const paying = wrapAxiosWithPayment(axios.create(), clientOf(x402Client, order));
  const { status, data, headers } = await paying.get(order.url).catch((error) => {
    if (error.response) return error.response;
    throw error;
  });
  const receipt = receiptOf(headers["payment-response"] ?? headers["x-payment-response"]);
  return { status, body: JSON.stringify(data), receipt, demand: demandIn(headers["payment-required"]) };
});
