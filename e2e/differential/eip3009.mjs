// Requests that pay with a signed EIP-3009 authorization: a good one, and the ways to spoil it before and after signing.

import { AMOUNT, AUTHORIZATION_TYPES, NETWORKS, freshNonce, now } from "./world.mjs";

/** What a version calls the price. */
export const amountKey = (version) => (version === 1 ? "maxAmountRequired" : "amount");

/**
 * A request of the given version. `before` may change what is demanded and signed, so that demand, authorization and signature
 * still belong together; `after` may change the finished body. Both may be asynchronous.
 */
export async function eip3009Request(world, version, { before, after } = {}) {
  const account = world.nextPayer();
  const draft = {
    version,
    account,
    primaryType: "TransferWithAuthorization",
    domain: { ...world.domain },
    requirements: requirements(world, version),
    authorization: {
      from: account.address,
      to: world.payTo,
      value: String(AMOUNT),
      validAfter: version === 1 ? String(now() - 600) : "0",
      validBefore: String(now() + 300),
      nonce: freshNonce(),
    },
  };
  await before?.(draft, world);
  const payload = { signature: await sign(draft), authorization: draft.authorization };
  const body = finish(version, payload, draft.requirements);
  await after?.(body, world, draft);
  return body;
}

/** The draft's authorization, signed under the draft's domain. */
export function sign({ account, domain, primaryType, authorization }) {
  const message = { ...authorization };
  for (const field of ["value", "validAfter", "validBefore"]) message[field] = BigInt(message[field]);
  return account.signTypedData({ domain, primaryType, types: { [primaryType]: AUTHORIZATION_TYPES[primaryType] }, message });
}

function requirements(world, version) {
  const { address, name, version: domainVersion } = world.asset;
  const common = {
    scheme: "exact",
    network: NETWORKS[version],
    [amountKey(version)]: String(AMOUNT),
    asset: address,
    payTo: world.payTo,
    maxTimeoutSeconds: 300,
    extra: { name, version: domainVersion },
  };
  if (version === 2) return common;
  return { ...common, resource: "http://127.0.0.1/weather", description: "", mimeType: "application/json", outputSchema: null };
}

/** The body around a payload. */
export function finish(version, payload, requirements) {
  const choice = version === 1
    ? { scheme: requirements.scheme, network: requirements.network }
    : { resource: { url: "http://127.0.0.1/weather" }, accepted: structuredClone(requirements) };
  return {
    x402Version: version,
    paymentPayload: { x402Version: version, ...choice, payload },
    paymentRequirements: requirements,
  };
}

/** Puts `value` at `path` of a body; `undefined` takes the member away. `amount` is what the version calls it. */
export function put(path, value) {
  return (body) => {
    const keys = path.split(".");
    const last = keys.pop();
    const parent = keys.reduce((object, key) => object[key], body);
    const key = parent === body.paymentRequirements && last === "amount"
      ? amountKey(body.paymentPayload.x402Version)
      : last;
    if (value === undefined) delete parent[key];
    else parent[key] = typeof value === "function" ? value(parent[key], body) : value;
  };
}

/** Several changes, one after another. */
export const all = (...changes) => async (...args) => {
  for (const change of changes) await change(...args);
};

/** Where the fields stand that cases change. */
export const AT = {
  payload: "paymentPayload.payload",
  signature: "paymentPayload.payload.signature",
  signed: (field) => `paymentPayload.payload.authorization.${field}`,
  demanded: (field) => `paymentRequirements.${field}`,
  extra: (field) => `paymentRequirements.extra.${field}`,
};
