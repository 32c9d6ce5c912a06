// The official facilitator classes of @x402/evm, on the chain of a `teller dev` and with keys of their own.

import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import { UptoEvmScheme } from "@x402/evm/upto/facilitator";
import {
  createWalletClient, http, numberToHex, parseTransaction, publicActions, recoverTransactionAddress,
} from "viem";
import { baseSepolia } from "viem/chains";

import { CONTRACTS, GAS_PRICE, NETWORKS, freshAccount } from "./world.mjs";

/** Each settles one payment at a time, so that none waits for another's nonce. */
const FACILITATORS = 24;

/** `verify` and `settle` of the official classes; what they throw is an answer like any other. */
export async function startReference(world, rpc) {
  const facilitators = await Promise.all(Array.from({ length: FACILITATORS }, () => facilitator(world, rpc)));
  let turn = 0;
  const next = () => facilitators[turn++ % FACILITATORS];
  // A permit of `upto` names the facilitator that may use it.
  const meant = ({ paymentPayload }) => {
    const named = paymentPayload?.payload?.permit2Authorization?.witness?.facilitator;
    return facilitators.find(({ address }) => address === named) ?? next();
  };

  return {
    /** An address for a permit of `upto` to name. */
    nextAddress: () => next().address,
    verify: (body) => caught(() => meant(body).classes.verify(body.paymentPayload, body.paymentRequirements)),
    settle: (body) => {
      const one = meant(body);
      const settled = one.last.then(() =>
        caught(() => one.classes.settle(body.paymentPayload, body.paymentRequirements)));
      one.last = settled;
      return settled;
    },
  };
}

async function facilitator(world, rpc) {
  const account = freshAccount();
  await world.giveEther(account.address);
  const client = createWalletClient({ account, chain: baseSepolia, transport: http(rpc), pollingInterval: 200 })
    .extend(publicActions);
  const signer = toFacilitatorEvmSigner({
    address: account.address,
    getCode: (args) => client.getCode(args),
    readContract: (args) => client.readContract(args),
    verifyTypedData: (args) => client.verifyTypedData(args),
    writeContract: (args) => client.writeContract({ ...args, gasPrice: GAS_PRICE }),
    sendTransaction: (args) => client.sendTransaction({ ...args, gasPrice: GAS_PRICE }),
    waitForTransactionReceipt: (args) => client.waitForTransactionReceipt(args),
  }, { confirmationTimeoutMs: 20_000 });
  const bundling = {
    ...signer,
    simulateTransactions: (transactions) => wouldSucceed(client, account.address, transactions),
    sendTransactions: (transactions) => sendInOrder(client, transactions),
  };
  const options = { eip6492AllowedFactories: [CONTRACTS.walletFactory] };
  const classes = new x402Facilitator()
    .register(NETWORKS[2], new ExactEvmScheme(signer, options))
    .register(NETWORKS[2], new UptoEvmScheme(signer))
    .registerV1(NETWORKS[1], new ExactEvmSchemeV1(signer, options))
    .registerExtension({ key: "erc20ApprovalGasSponsoring", signer: bundling });
  return { address: account.address, classes, last: Promise.resolve() };
}

/** Whether signed transactions and calls of the facilitator's own would succeed one after the other in the next block. */
async function wouldSucceed(client, facilitator, transactions) {
  const calls = await Promise.all(transactions.map(async (one) => {
    if (typeof one !== "string") return { from: facilitator, to: one.to, input: one.data, gas: numberToHex(one.gas) };
    const { to, data, gas } = parseTransaction(one);
    return { from: await recoverTransactionAddress({ serializedTransaction: one }), to, input: data, gas: numberToHex(gas) };
  }));
  const { number, timestamp } = await client.getBlock();
  const blockOverrides = { number: numberToHex(number + 1n), time: numberToHex(timestamp + 1n) };
  const [block] = await client.request({
    method: "eth_simulateV1", params: [{ blockStateCalls: [{ blockOverrides, calls }] }, numberToHex(number)],
  });
  return block.calls.every(({ status }) => status === "0x1");
}

/** Sends signed transactions and calls of the facilitator's own, each once the one before is mined. */
async function sendInOrder(client, transactions) {
  const hashes = [];
  for (const one of transactions) {
    const hash = typeof one === "string"
      ? await client.sendRawTransaction({ serializedTransaction: one })
      : await client.sendTransaction({ ...one, gasPrice: GAS_PRICE });
    hashes.push(hash);
    await client.waitForTransactionReceipt({ hash, timeout: 20_000 });
  }
  return hashes;
}

/** The classes check no shapes, so that a bad one makes them throw; an official server then answers 500. */
async function caught(ask) {
  try {
    return { answer: await ask() };
  } catch (error) {
    return { thrown: error };
  }
}
