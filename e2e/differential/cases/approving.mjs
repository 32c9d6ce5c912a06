// Permit2 with a transaction that the payer signs too (`erc20ApprovalGasSponsoring`): its approval of Permit2.

import { concatHex, encodeFunctionData } from "viem";

import { permit2Request } from "../permit2.mjs";
import { AMOUNT, CHAIN_ID, CONTRACTS, GAS_PRICE, MAX_UINT, dollarAbi, freshAccount, newPayer } from "../world.mjs";

const approveCall = (spender, amount) => encodeFunctionData({ abi: dollarAbi, functionName: "approve", args: [spender, amount] });

/**
 * A payer who has approved nothing, and says so with a transaction; `signs` may change the transaction, `sends` what is sent
 * of it, `prepare` the payer.
 */
export async function approvingRequest(scheme, world, { signs, sends, prepare } = {}, whose) {
  const account = await newPayer(world, 100n * AMOUNT);
  await prepare?.(account, world);
  return permit2Request(scheme, world, {
    before: (draft) => {
      draft.account = account;
      draft.permit.from = account.address;
    },
    after: async (body) => {
      const draft = {
        account,
        transaction: {
          type: "eip1559",
          chainId: CHAIN_ID,
          to: world.asset.address,
          data: approveCall(CONTRACTS.permit2, MAX_UINT),
          nonce: 0,
          gas: 70_000n,
          maxFeePerGas: GAS_PRICE,
          maxPriorityFeePerGas: 1_000_000n,
        },
      };
      signs?.(draft.transaction, draft);
      const info = {
        from: account.address,
        asset: world.asset.address,
        spender: CONTRACTS.permit2,
        amount: String(MAX_UINT),
        signedTransaction: await draft.account.signTransaction(draft.transaction),
        version: "1",
      };
      sends?.(info);
      body.paymentPayload.extensions = { erc20ApprovalGasSponsoring: { info, schema: {} } };
    },
  }, whose);
}

const signs = (name, change) => ({ name: `the approval ${name}`, signs: change });
const sends = (name, change) => ({ name: `the approval's ${name}`, sends: change });
const without = (member) => sends(`${member} is missing`, (info) => { delete info[member]; });
const withoutGas = ({ address }, world) => world.client.setBalance({ address, value: 0n });

export const approving = [
  { name: "a good approval" },
  { name: "a good approval, and no gas for it", prepare: withoutGas },
  {
    name: "an approval for which the payer lacks more gas than is given",
    prepare: withoutGas,
    signs: (transaction) => { transaction.maxFeePerGas = 2n * GAS_PRICE; },
  },
  signs("is of exactly the amount", (transaction) => { transaction.data = approveCall(CONTRACTS.permit2, AMOUNT); }),
  signs("is of less", (transaction) => { transaction.data = approveCall(CONTRACTS.permit2, AMOUNT - 1n); }),
  signs("goes to another contract", (transaction) => { transaction.to = CONTRACTS.plainToken; }),
  signs("is a transfer", (transaction) => {
    transaction.data = encodeFunctionData({ abi: dollarAbi, functionName: "transfer", args: [CONTRACTS.permit2, 1n] });
  }),
  signs("has no calldata", (transaction) => { transaction.data = "0x"; }),
  signs("lacks half of its calldata", (transaction) => { transaction.data = transaction.data.slice(0, 2 + 8 + 64); }),
  signs("has a byte more", (transaction) => { transaction.data = concatHex([transaction.data, "0x00"]); }),
  signs("is for another spender", (transaction) => { transaction.data = approveCall(CONTRACTS.exactProxy, MAX_UINT); }),
  signs("is another's", (_, draft) => { draft.account = freshAccount(); }),
  signs("is for another chain", (transaction) => { transaction.chainId = 8453; }),
  signs("has a later nonce", (transaction) => { transaction.nonce = 7; }),
  signs("sends ether", (transaction) => { transaction.value = 1n; }),
  signs("has much gas", (transaction) => { transaction.gas = 1_000_000n; }),
  signs("has too little gas", (transaction) => { transaction.gas = 25_000n; }),
  signs("pays less than the base fee", (transaction) => { transaction.maxFeePerGas = transaction.maxPriorityFeePerGas = 1n; }),
  signs("has an access list", (transaction) => { transaction.accessList = [{ address: CONTRACTS.permit2, storageKeys: [] }]; }),
  signs("is a legacy transaction", (transaction) => {
    Object.assign(transaction, { type: "legacy", gasPrice: GAS_PRICE, maxFeePerGas: undefined, maxPriorityFeePerGas: undefined });
  }),
  sends("payer is another", (info) => { info.from = freshAccount().address; }),
  sends("asset is another", (info) => { info.asset = CONTRACTS.plainToken; }),
  sends("spender is another", (info) => { info.spender = CONTRACTS.exactProxy; }),
  sends("amount is another", (info) => { info.amount = "1"; }),
  sends("amount is no number", (info) => { info.amount = "all"; }),
  sends("asset is no address", (info) => { info.asset = "USDC"; }),
  sends("version is no version", (info) => { info.version = "one"; }),
  sends("transaction is no hex", (info) => { info.signedTransaction = "signed"; }),
  sends("transaction is cut", (info) => { info.signedTransaction = info.signedTransaction.slice(0, 100); }),
  sends("transaction is a byte longer", (info) => { info.signedTransaction = concatHex([info.signedTransaction, "0x00"]); }),
  without("signedTransaction"),
  without("from"),
];
