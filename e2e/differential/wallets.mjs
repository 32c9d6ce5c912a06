// Payers that are contracts: wallets that are deployed (ERC-1271), foreseen (ERC-6492), or an account's own code (EIP-7702).

import { concatHex, encodeFunctionData, parseAbi } from "viem";
import { readContract } from "viem/actions";

import { eip3009Request, sign } from "./eip3009.mjs";
import { wrapped } from "./cases/signatures.mjs";
import { AMOUNT, CONTRACTS, freshNonce, freshOwner, giveDollars, isOldNews } from "./world.mjs";

const factoryAbi = parseAbi([
  "function createWallet(address owner, bytes32 salt) returns (address)",
  "function walletOf(address owner, bytes32 salt) view returns (address)",
]);

/** A wallet of a new owner, with money; `isDeployed` says whether its code is there. */
export async function newWallet(world, isDeployed) {
  const owner = freshOwner();
  const args = [owner.address, freshNonce()];
  const creation = encodeFunctionData({ abi: factoryAbi, functionName: "createWallet", args });
  const address = await readContract(world.client, {
    address: CONTRACTS.walletFactory, abi: factoryAbi, functionName: "walletOf", args,
  });
  await world.giveEther(owner.address);
  if (isDeployed) await world.send(owner.address, CONTRACTS.walletFactory, factoryAbi, "createWallet", args);
  await giveDollars(world, address, 100n * AMOUNT);
  await isOldNews(world);
  return { address, owner, creation };
}

/** An account with money whose code delegates to the smart wallet. */
export async function newDelegated(world) {
  const owner = freshOwner();
  await giveDollars(world, owner.address, 100n * AMOUNT);
  await world.client.setCode({ address: owner.address, bytecode: concatHex(["0xef0100", CONTRACTS.smartWallet]) });
  await isOldNews(world);
  return { address: owner.address, owner };
}

/** An EIP-3009 request whose payer is a wallet, signed by its owner. */
export function walletRequest(wallet) {
  return (world, version, { before, after, ...one }) => eip3009Request(world, version, {
    ...one,
    before: async (draft) => {
      draft.wallet = await wallet(world, one);
      draft.account = draft.wallet.owner;
      draft.authorization.from = draft.wallet.address;
      await before?.(draft, world);
    },
    after: async (body, _, draft) => {
      const { payload } = body.paymentPayload;
      if (draft.wallet.creation) payload.signature = wrapped(payload.signature, CONTRACTS.walletFactory, draft.wallet.creation);
      await after?.(body, world, draft);
    },
  });
}

/** Signs the draft again as somebody else. */
export const signedBy = (account) => async (body, _, draft) => {
  body.paymentPayload.payload.signature = await sign({ ...draft, account });
};
