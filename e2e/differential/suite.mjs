// Asks both facilitators about each case and keeps what they say.

import assert from "node:assert/strict";

import { VALID, THROWS, forEach, verdict } from "./compare.mjs";

/** How many cases are asked about at the same time. */
const WIDTH = 24;
const ADDRESS = /^0x[0-9a-fA-F]{40}$/;

export class Suite {
  /** `probe` says which ways of paying teller serves. */
  constructor({ teller, reference, differences, serves }) {
    Object.assign(this, { teller, reference, differences, serves });
    this.tally = { cases: 0, agreed: 0, listed: 0 };
    this.notServed = [];
  }

  /** Asks about every case of a group and demands that each answer agrees, or differs as listed. */
  async run(group, cases) {
    if (!this.serves.has(group.needs)) {
      this.notServed.push(...cases.map(({ name }) => name));
      return;
    }
    const wrong = [];
    await forEach(cases, WIDTH, async (one) => {
      try {
        await this.ask(one, wrong);
      } catch (error) {
        wrong.push(`${one.name}\n      ${error.stack}`);
      }
    });
    assert.equal(wrong.length, 0, `${wrong.length} of ${cases.length} cases:\n  ${wrong.sort().join("\n  ")}`);
  }

  async ask({ name, endpoint, make, sharesBody }, wrong) {
    // One body serves both at verify, which changes nothing on the chain; the reference goes first, since teller holds what it
    // has verified. A settled authorization is spent, and one of `upto` names its facilitator, so there each gets its own.
    const body = await make("reference");
    const said = { reference: await this.askReference(endpoint, body) };
    const theirs = endpoint === "verify" && sharesBody ? body : await make("teller");
    said.teller = await this.askTeller(endpoint, theirs);
    this.tally.cases += 1;
    const verdicts = { reference: said.reference.verdict, teller: said.teller.verdict };
    if (verdicts.reference === verdicts.teller) {
      this.tally.agreed += 1;
      assertPayers(name, [body, said.reference], [theirs, said.teller]);
    } else if (this.differences.allows(name, verdicts)) {
      this.tally.listed += 1;
    } else {
      wrong.push(`${name}\n      reference: ${verdicts.reference}\n      teller:    ${verdicts.teller}`
        + ` (${said.teller.message ?? ""})`);
    }
    if (endpoint === "settle") {
      await this.checkChain(name, "the reference", body, said.reference);
      await this.checkChain(name, "teller", theirs, said.teller);
      assert.ok(said.teller.verdict === VALID || said.teller.transaction === "", `${name}: teller refuses with a transaction`);
    }
  }

  async askReference(endpoint, body) {
    const { answer, thrown } = await this.reference[endpoint](structuredClone(body));
    return thrown ? { verdict: THROWS, message: thrown.message } : read(endpoint, answer);
  }

  async askTeller(endpoint, body) {
    const response = await fetch(`${this.teller.url}/${endpoint}`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    const text = await response.text();
    const isRequest = [body.paymentPayload, body.paymentRequirements].every(isObject);
    assert.equal(response.status, isRequest ? 200 : 400, `teller answers ${response.status}: ${text}`);
    const answer = read(endpoint, JSON.parse(text));
    assert.equal(typeof answer.payer, "string", "teller always names a payer");
    return answer;
  }

  /** A success is on the chain. */
  async checkChain(name, who, body, said) {
    if (said.verdict !== VALID) return;
    const { from, to, value } = moved(body);
    // Nothing to move is nothing on the chain under `upto`.
    if (body.paymentRequirements.scheme === "upto" && value === 0n) return;
    const asset = body.paymentRequirements.asset;
    const amounts = await this.teller.chain.transfersIn(said.transaction, from, to, asset);
    assert.ok(amounts.includes(value), `${name}: ${who} names ${said.transaction}, which does not move ${value}`);
  }
}

/** What a settled body must have moved. */
function moved({ paymentPayload: { payload }, paymentRequirements: { amount, maxAmountRequired } }) {
  const { permit2Authorization: permit, authorization } = payload;
  const [from, to] = permit ? [permit.from, permit.witness.to] : [authorization.from, authorization.to];
  return { from, to, value: BigInt(amount ?? maxAmountRequired) };
}

function read(endpoint, answer) {
  return {
    verdict: verdict(endpoint, answer),
    payer: answer.payer,
    transaction: answer.transaction,
    message: answer.invalidMessage ?? answer.errorMessage,
  };
}

/** Where the reference names the payer, teller does too. Each was asked about a body of its own. */
function assertPayers(name, ...both) {
  const [reference, teller] = both.map(([body, { payer }]) => {
    const { authorization, permit2Authorization } = body.paymentPayload.payload;
    const from = (permit2Authorization ?? authorization)?.from ?? "";
    return ADDRESS.test(payer ?? "") && payer.toLowerCase() === from.toLowerCase();
  });
  if (reference) assert.ok(teller, `${name}: the reference names the payer, teller does not`);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
