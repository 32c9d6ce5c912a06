// Which ways of paying a teller serves. /supported names versions, schemes and extensions; whether `exact` takes Permit2 or the
// payments of contract wallets, it has no word for, so that teller is asked with a good payment of each.

import { verdict, VALID } from "./compare.mjs";
import { delegatedRequest, deployedRequest, foreseenRequest } from "./cases/wallets.mjs";
import { eip3009Request } from "./eip3009.mjs";
import { permit2Request } from "./permit2.mjs";
import { NETWORKS } from "./world.mjs";

/** What teller serves already: that these are asked about is itself a test. */
export const MUST_BE_SERVED = [
  "eip3009", "permit2", "upto", "erc1271", "eip7702", "erc6492", "approval for exact", "approval for upto",
];

/** The refusals of a good payment that mean "not this way"; any other is a fault and no answer to this question. */
const NOT_THIS_WAY = {
  eip3009: [],
  permit2: ["unsupported_payload_type"],
  upto: ["unsupported_scheme", "unsupported_payload_type"],
  // As long as no wallet is asked, its owner's signature is somebody else's, and a wrapper is one of a wrong length.
  erc1271: ["payer_has_code_not_supported", "invalid_exact_evm_signature"],
  eip7702: ["payer_has_code_not_supported"],
  erc6492: ["invalid_exact_evm_signature", "eip6492_factory_not_allowed"],
};

/** The ways that `teller` serves, and its extensions; tells `world` which facilitator teller's permits of `upto` must name. */
export async function whatIsServed(world, teller) {
  const supported = await (await fetch(`${teller.url}/supported`)).json();
  const upto = supported.kinds.find(({ scheme, network, x402Version }) =>
    scheme === "upto" && network === NETWORKS[2] && x402Version === 2);
  world.facilitators.teller = () => upto?.extra.facilitatorAddress;

  const tried = {
    eip3009: () => eip3009Request(world, 2),
    permit2: () => permit2Request("exact", world, {}, "teller"),
    ...(upto && { upto: () => permit2Request("upto", world, {}, "teller") }),
    erc1271: () => deployedRequest(world, 2, {}),
    eip7702: () => delegatedRequest(world, 2, {}),
    erc6492: () => foreseenRequest(world, 2, {}),
  };
  const served = new Set();
  for (const [way, make] of Object.entries(tried)) {
    const answer = await verify(teller, await make());
    const said = verdict("verify", answer);
    if (said === VALID) served.add(way);
    else if (!NOT_THIS_WAY[way].includes(said)) {
      throw new Error(`whether teller serves ${way} cannot be told: it answers ${JSON.stringify(answer)}`);
    }
  }
  for (const id of supported.extensions) served.add(id);
  for (const [id, name] of [["eip2612GasSponsoring", "eip2612"], ["erc20ApprovalGasSponsoring", "approval"]]) {
    for (const [scheme, way] of [["exact", "permit2"], ["upto", "upto"]]) {
      if (served.has(id) && served.has(way)) served.add(`${name} for ${scheme}`);
    }
  }
  return served;
}

async function verify(teller, body) {
  const response = await fetch(`${teller.url}/verify`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  return response.json();
}
