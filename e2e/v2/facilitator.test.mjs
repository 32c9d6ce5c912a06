// The calls of @x402/core's HTTPFacilitatorClient, which every official server makes, straight at teller.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { x402Client } from "@x402/core/client";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

import { startTeller } from "../harness.mjs";

const NETWORK = "eip155:84532";
const AMOUNT = 10_000n;
const TRANSACTION = /^0x[0-9a-f]{64}$/;

describe("@x402/core's facilitator client", () => {
  let teller, facilitator, payer, requirements;

  before(async () => {
    teller = await startTeller();
    facilitator = new HTTPFacilitatorClient({ url: teller.url });
    payer = privateKeyToAccount(teller.devnet.payers[0]);
    const { address, name, version } = teller.devnet.asset;
    requirements = {
      scheme: "exact",
      network: NETWORK,
      amount: String(AMOUNT),
      asset: address,
      payTo: privateKeyToAccount(generatePrivateKey()).address,
      maxTimeoutSeconds: 60,
      extra: { name, version },
    };
  });

  after(() => teller?.stop());

  /** A payment of `asked`, signed by the official client. */
  const sign = (asked = requirements, account = payer) =>
    new x402Client().register(NETWORK, new ExactEvmScheme(account)).createPaymentPayload({
      x402Version: 2,
      resource: { url: "http://127.0.0.1/weather" },
      accepts: [asked],
    });

  it("finds exact payments of both versions supported, and who signs the transactions", async () => {
    const { kinds, extensions, signers } = await facilitator.getSupported();
    const listed = kinds.map(({ x402Version, scheme, network }) => `${x402Version} ${scheme} ${network}`);
    assert.ok(listed.includes("1 exact base-sepolia"), listed.join());
    assert.ok(listed.includes(`2 exact ${NETWORK}`), listed.join());
    assert.ok(Array.isArray(extensions));
    assert.ok(signers["eip155:*"].length > 0);
  });

  it("verifies a good payment, and settles it with the payment on the chain", async () => {
    const payment = await sign();
    const verified = await facilitator.verify(payment, requirements);
    assert.deepEqual([verified.isValid, verified.payer?.toLowerCase()], [true, payer.address.toLowerCase()]);

    const settled = await facilitator.settle(payment, requirements);

    assert.equal(settled.success, true, JSON.stringify(settled));
    assert.equal(settled.network, NETWORK);
    assert.equal(settled.payer.toLowerCase(), payer.address.toLowerCase());
    assert.match(settled.transaction, TRANSACTION);
    assert.deepEqual(
      await teller.chain.transfersIn(settled.transaction, payer.address, requirements.payTo), [AMOUNT]);
  });

  it("names the first settlement when one payment is settled again", async () => {
    const payment = await sign();
    const first = await facilitator.settle(payment, requirements);
    assert.equal(first.success, true, JSON.stringify(first));

    const second = await facilitator.settle(payment, requirements);

    assert.equal(second.success, false);
    assert.equal(second.errorReason, "duplicate_settlement");
    assert.equal(second.transaction, first.transaction);
    assert.equal((await facilitator.verify(payment, requirements)).isValid, false);
  });

  it("settles one payment once when it is asked ten times at once", async () => {
    const payment = await sign();
    const settled = await Promise.all(Array.from({ length: 10 }, () => facilitator.settle(payment, requirements)));
    assert.equal(settled.filter(({ success }) => success).length, 1, JSON.stringify(settled));
  });

  // The client throws on anything but a 2xx, so that these answers arrive at all shows that they are 200.
  const refusals = [
    ["of another amount", "invalid_exact_evm_payload_authorization_value_mismatch",
      async () => [await sign({ ...requirements, amount: String(AMOUNT - 1n) }), requirements]],
    ["to another recipient", "invalid_exact_evm_recipient_mismatch",
      async () => [await sign({ ...requirements, payTo: payer.address }), requirements]],
    ["that has expired", "invalid_exact_evm_payload_authorization_valid_before",
      async () => [await sign({ ...requirements, maxTimeoutSeconds: 1 }), requirements]],
    ["with another's signature", "invalid_exact_evm_signature", async () => {
      const [payment, other] = await Promise.all([sign(), sign(requirements, privateKeyToAccount(generatePrivateKey()))]);
      return [{ ...payment, payload: { ...payment.payload, signature: other.payload.signature } }, requirements];
    }],
    ["that was changed after signing", "invalid_exact_evm_signature", async () => {
      const payment = await sign();
      const authorization = { ...payment.payload.authorization, nonce: `0x${"07".repeat(32)}` };
      return [{ ...payment, payload: { ...payment.payload, authorization } }, requirements];
    }],
    ["of more than the payer has", "invalid_exact_evm_insufficient_balance", async () => {
      const broke = privateKeyToAccount(generatePrivateKey());
      return [await sign(requirements, broke), requirements];
    }],
  ];
  for (const [what, reason, make] of refusals) {
    it(`refuses a payment ${what} with ${reason}`, async () => {
      const [payment, asked] = await make();
      const before = await teller.chain.balanceOf(requirements.payTo);

      const verified = await facilitator.verify(payment, asked);
      assert.deepEqual([verified.isValid, verified.invalidReason], [false, reason]);

      const settled = await facilitator.settle(payment, asked);
      assert.deepEqual([settled.success, settled.errorReason, settled.transaction], [false, reason, ""]);
      assert.equal(await teller.chain.balanceOf(requirements.payTo), before);
    });
  }
});
