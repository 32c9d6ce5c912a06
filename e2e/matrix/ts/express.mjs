// A shop behind @x402/express.

import { paymentMiddleware, setSettlementOverrides } from "@x402/express";
import express from "express";

import { CHARGED, opened, resourceServer, routes } from "./shop.mjs";

const app = express();
app.use(paymentMiddleware(routes(), resourceServer()));
app.get("/v2/exact/:method", (_, response) => response.json({ weather: "sunny" }));
app.get("/v2/upto/:method", (_, response) => {
  setSettlementOverrides(response, { amount: CHARGED });
  response.json({ weather: "sunny" });
});
const server = app.listen(0, "127.0.0.1", () => opened(server.address().port));
