// A shop behind x402-express 1.x for e2e/matrix.

import express from "express";
import { paymentMiddleware } from "x402-express";

const { facilitator, payTo } = JSON.parse(process.argv[2]);
const app = express();
app.use(paymentMiddleware(
  payTo, { "GET /v1/exact/eip3009": { price: "$0.01", network: "base-sepolia" } }, { url: facilitator }));
app.get("/v1/exact/eip3009", (_, response) => response.json({ weather: "sunny" }));
const server = app.listen(0, "127.0.0.1", () =>
  console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` })));
