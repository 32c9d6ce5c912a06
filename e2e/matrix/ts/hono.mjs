// A shop behind @x402/hono.

import { serve } from "@hono/node-server";
import { paymentMiddleware, setSettlementOverrides } from "@x402/hono";
import { Hono } from "hono";

import { CHARGED, opened, resourceServer, routes } from "./shop.mjs";

const app = new Hono();
app.use(paymentMiddleware(routes(), resourceServer()));
app.get("/v2/exact/:method", (context) => context.json({ weather: "sunny" }));
app.get("/v2/upto/:method", (context) => {
  setSettlementOverrides(context, { amount: CHARGED });
  return context.json({ weather: "sunny" });
});
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: 0 }, ({ port }) => opened(port));
