// Every case with its name, by way of paying.

import { eip3009Request } from "../eip3009.mjs";
import { permit2Request } from "../permit2.mjs";
import { addresses } from "./addresses.mjs";
import { approving, approvingRequest } from "./approving.mjs";
import { numbers, timeouts } from "./numbers.mjs";
import { permit2, upto } from "./permit2.mjs";
import { kinds, networks, schemes, shapes, versions } from "./routing.mjs";
import { signatures } from "./signatures.mjs";
import { sponsored, sponsoredRequest } from "./sponsoring.mjs";
import { domain, good, state, terms, tolerated } from "./terms.mjs";
import {
  common, delegatedRequest, deployed, deployedRequest, foreseen, foreseenRequest, plainWrapped, wrappedRequest,
} from "./wallets.mjs";

/**
 * A group of cases: `needs` is the way of paying that teller must serve for it, `around` what holds while it runs.
 * A case is asked at both endpoints unless it says `settle: false` or which ones.
 */
function group({ name, needs, path, versions: ofGroup, request, cases, sharesBody = true, around = (_, run) => run() }) {
  return {
    name,
    needs,
    around,
    casesIn: (world) => ofGroup.flatMap((version) => cases
      .filter(({ versions: ofCase }) => ofCase?.includes(version) ?? true)
      .flatMap((one) => endpointsOf(one).map((endpoint) => ({
        name: `${path}/v${version}/${endpoint}/${one.name}`,
        endpoint,
        sharesBody,
        make: (whose) => request(world(), version, one, whose),
      })))),
  };
}

const endpointsOf = ({ endpoints, settle }) => endpoints ?? (settle === false ? ["verify"] : ["verify", "settle"]);

const eip3009 = (name, cases, more) => group({
  name: `exact, EIP-3009: ${name}`, needs: "eip3009", path: "exact/eip3009", versions: [1, 2], request: eip3009Request, cases, ...more,
});

const permits = (needs, scheme, cases) => group({
  name: `${scheme}, Permit2`, needs, path: `${scheme}/permit2`, versions: [2], cases, sharesBody: scheme !== "upto",
  request: (world, _, one, whose) => permit2Request(scheme, world, one, whose),
});

const sponsoring = (needs, scheme) => group({
  name: `${scheme}, Permit2 with a permit of the token's`, needs, path: `${scheme}/eip2612`, versions: [2], cases: sponsored,
  sharesBody: scheme !== "upto", request: (world, _, one, whose) => sponsoredRequest(scheme, world, one, whose),
});

const approvals = (needs, scheme) => group({
  name: `${scheme}, Permit2 with the transaction that approves it`, needs, path: `${scheme}/erc20approval`, versions: [2],
  cases: approving, sharesBody: scheme !== "upto", request: (world, _, one, whose) => approvingRequest(scheme, world, one, whose),
});

const wallets = (path, name, cases, request, needs = path) => group({
  name: `exact, EIP-3009 of ${name}`, needs, path: `exact/${path}`, versions: [1, 2], cases, request,
});

export const groups = [
  eip3009("good payments", good),
  eip3009("terms", terms),
  eip3009("the token's domain", domain),
  eip3009("the state of the chain", state),
  eip3009("signatures", signatures),
  eip3009("numbers", numbers),
  eip3009("timeouts", timeouts),
  eip3009("addresses and nonces", addresses),
  eip3009("what must be tolerated", tolerated),
  eip3009("versions", versions),
  eip3009("schemes", schemes),
  eip3009("networks", networks),
  eip3009("the body's shape", shapes),
  eip3009("kinds of payload", kinds),
  permits("permit2", "exact", permit2),
  permits("upto", "upto", [...permit2, ...upto]),
  sponsoring("eip2612 for exact", "exact"),
  sponsoring("eip2612 for upto", "upto"),
  approvals("approval for exact", "exact"),
  approvals("approval for upto", "upto"),
  wallets("erc1271", "a deployed wallet", deployed, deployedRequest),
  wallets("eip7702", "a delegated account", deployed, delegatedRequest),
  wallets("erc6492", "a foreseen wallet", foreseen, foreseenRequest),
  wallets("erc6492/deployed", "a deployed wallet in a wrapper", common, wrappedRequest, "erc6492"),
  wallets("erc6492/plain", "a plain account in a wrapper", plainWrapped, eip3009Request, "erc6492"),
  // Last, since it stops everybody.
  eip3009("while the token is paused", good, {
    path: "exact/eip3009/paused",
    around: async (world, run) => {
      await world.asBoss("pause");
      try {
        await run();
      } finally {
        await world.asBoss("unpause");
      }
    },
  }),
];
