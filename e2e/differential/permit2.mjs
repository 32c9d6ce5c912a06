// Requests that pay by Permit2, under `exact` or `upto`: a good one, and the ways to spoil it before and after signing.

import { finish } from "./eip3009.mjs";
import { AMOUNT, CHAIN_ID, CONTRACTS, NETWORKS, freshNonce, now } from "./world.mjs";

const fields = (...all) => all.map((field) => field.split(" ")).map(([type, name]) => ({ name, type }));
const PERMIT_TYPES = (witness) => ({
  PermitWitnessTransferFrom: fields(
    "TokenPermissions permitted", "address spender", "uint256 nonce", "uint256 deadline", "Witness witness"),
  TokenPermissions: fields("address token", "uint256 amount"),
  Witness: fields(...witness),
});
const SCHEMES = {
  exact: { spender: CONTRACTS.exactProxy, types: PERMIT_TYPES(["address to", "uint256 validAfter"]) },
  upto: { spender: CONTRACTS.uptoProxy, types: PERMIT_TYPES(["address to", "address facilitator", "uint256 validAfter"]) },
};

/** What an EIP-2612 permit for Permit2 is signed as. */
export const PERMIT_2612_TYPES = {
  Permit: fields("address owner", "address spender", "uint256 value", "uint256 nonce", "uint256 deadline"),
};

/**
 * A v2 request of `scheme`, for the facilitator `whose` ("reference" or "teller"). `before` may change what is demanded and
 * signed, `after` the finished body.
 */
export async function permit2Request(scheme, world, { before, after } = {}, whose) {
  const account = world.nextPayer();
  const { address, name, version } = world.asset;
  const facilitator = scheme === "upto" ? world.facilitators[whose]() : undefined;
  const draft = {
    scheme,
    account,
    domain: { name: "Permit2", chainId: CHAIN_ID, verifyingContract: CONTRACTS.permit2 },
    types: SCHEMES[scheme].types,
    permit: {
      from: account.address,
      permitted: { token: address, amount: String(AMOUNT) },
      spender: SCHEMES[scheme].spender,
      nonce: String(BigInt(freshNonce())),
      deadline: String(now() + 300),
      witness: { to: world.payTo, ...(facilitator && { facilitator }), validAfter: "0" },
    },
    requirements: {
      scheme,
      network: NETWORKS[2],
      amount: String(AMOUNT),
      asset: address,
      payTo: world.payTo,
      maxTimeoutSeconds: 300,
      extra: { name, version, assetTransferMethod: "permit2", ...(facilitator && { facilitatorAddress: facilitator }) },
    },
  };
  await before?.(draft, world);
  const payload = { signature: await signPermit(draft), permit2Authorization: draft.permit };
  const body = finish(2, payload, draft.requirements);
  await after?.(body, world, draft);
  return body;
}

/** The draft's permit, signed under the draft's domain. */
export function signPermit({ account, domain, types, permit }) {
  const { permitted, spender, nonce, deadline, witness } = permit;
  return account.signTypedData({
    domain, types, primaryType: "PermitWitnessTransferFrom",
    message: {
      permitted: { ...permitted, amount: BigInt(permitted.amount) },
      spender,
      nonce: BigInt(nonce),
      deadline: BigInt(deadline),
      witness: { ...witness, validAfter: BigInt(witness.validAfter) },
    },
  });
}

export const permitAt = (field) => `paymentPayload.payload.permit2Authorization.${field}`;
