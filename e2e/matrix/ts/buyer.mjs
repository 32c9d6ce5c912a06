// What a TypeScript buyer has in common with the others: orders come as lines on standard input, and each is answered by a line.

import { createInterface } from "node:readline";

import { toClientEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { BuilderCodeClientExtension } from "@x402/extensions/builder-code";
import { appendPaymentIdentifierToExtensions } from "@x402/extensions/payment-identifier";
import { concatHex, createPublicClient, encodeAbiParameters, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const MAGIC_6492 = `0x${"6492".repeat(16)}`;

/** Answers every order with `{id, status, body, receipt}`, or with `{id, error}`. */
export function takeOrders(buy) {
  createInterface({ input: process.stdin }).on("line", async (line) => {
    const { id, ...order } = JSON.parse(line);
    const answer = await buy(order).catch((error) => ({ error: error.stack }));
    console.log(JSON.stringify({ id, ...answer }));
  });
}

/** An official client of the given class, that pays in every way it knows. */
export function clientOf(Client, order) {
  const signer = toClientEvmSigner(signerOf(order), createPublicClient({ chain: baseSepolia, transport: http(order.rpc) }));
  const client = new Client()
    .register("eip155:84532", new ExactEvmScheme(signer))
    .register("eip155:84532", new UptoEvmScheme(signer))
    .registerV1("base-sepolia", new ExactEvmSchemeV1(signer));
  if (order.builderCode) client.registerExtension(new BuilderCodeClientExtension(order.builderCode));
  if (order.identifier) {
    client.onBeforePaymentCreation(async ({ paymentRequired }) => {
      appendPaymentIdentifierToExtensions(paymentRequired.extensions, order.identifier);
    });
  }
  return client;
}

/** An account, or a contract wallet that its owner signs for; an undeployed one says how it comes to be (ERC-6492). */
function signerOf({ key, wallet, creation }) {
  const owner = privateKeyToAccount(key);
  if (!wallet) return owner;
  return {
    address: wallet,
    signTypedData: async (typedData) => {
      const signature = await owner.signTypedData(typedData);
      if (!creation) return signature;
      const parts = [{ type: "address" }, { type: "bytes" }, { type: "bytes" }];
      return concatHex([encodeAbiParameters(parts, [creation.factory, creation.calldata, signature]), MAGIC_6492]);
    },
  };
}

/** What a header of a response says, or null. */
export const receiptOf = (header) => (header ? JSON.parse(Buffer.from(header, "base64").toString("utf8")) : null);

/** Why a shop still demands payment, as its header says it. */
export const demandIn = (header) => (header ? Buffer.from(header, "base64").toString("utf8") : "");
