// Permit2 with a permit of the token's own that the payer signs too (`eip2612GasSponsoring`).

import { PERMIT_2612_TYPES, permit2Request } from "../permit2.mjs";
import { AMOUNT, CONTRACTS, freshAccount, newPayer, nonceOf, now } from "../world.mjs";

/** A payer who has approved nothing, and says so with a permit; `info` may change what is signed, `finished` what is sent. */
export async function sponsoredRequest(scheme, world, { info, finished } = {}, whose) {
  const account = await newPayer(world, 100n * AMOUNT);
  return permit2Request(scheme, world, {
    before: (draft) => {
      draft.account = account;
      draft.permit.from = account.address;
    },
    after: async (body) => {
      const permit = {
        from: account.address,
        asset: world.asset.address,
        spender: CONTRACTS.permit2,
        amount: String(AMOUNT),
        nonce: String(await nonceOf(world, account.address)),
        deadline: String(now() + 300),
        version: "1",
      };
      info?.(permit);
      permit.signature = await account.signTypedData({
        domain: world.domain, types: PERMIT_2612_TYPES, primaryType: "Permit",
        message: {
          owner: permit.from, spender: permit.spender, value: BigInt(permit.amount), nonce: BigInt(permit.nonce),
          deadline: BigInt(permit.deadline),
        },
      });
      finished?.(permit);
      body.paymentPayload.extensions = { eip2612GasSponsoring: { info: permit, schema: {} } };
    },
  }, whose);
}

const signed = (name, info) => ({ name, info });
const sent = (name, finished) => ({ name, finished });

export const sponsored = [
  { name: "a good permit" },
  signed("the permit is of another payer", (permit) => { permit.from = freshAccount().address; }),
  signed("the permit is for another asset", (permit) => { permit.asset = CONTRACTS.plainToken; }),
  signed("the permit is for another spender", (permit) => { permit.spender = CONTRACTS.exactProxy; }),
  signed("the permit has expired", (permit) => { permit.deadline = String(now() - 60); }),
  signed("the permit is of less", (permit) => { permit.amount = String(AMOUNT - 1n); }),
  signed("the permit is of more", (permit) => { permit.amount = String(AMOUNT + 1n); }),
  signed("the permit's nonce is another", (permit) => { permit.nonce = "7"; }),
  sent("the permit's signature is another's", (permit) => { permit.signature = `0x${"11".repeat(64)}1b`; }),
  sent("the permit's signature is short", (permit) => { permit.signature = "0x1234"; }),
  sent("the permit's signature is no hex", (permit) => { permit.signature = "signed"; }),
  sent("the permit's amount is no number", (permit) => { permit.amount = "all"; }),
  sent("the permit's deadline is no number", (permit) => { permit.deadline = "soon"; }),
  sent("the permit's asset is no address", (permit) => { permit.asset = "USDC"; }),
  sent("the permit's version is no version", (permit) => { permit.version = "one"; }),
  sent("the permit has no signature", (permit) => { delete permit.signature; }),
  sent("the permit has no nonce", (permit) => { delete permit.nonce; }),
];
