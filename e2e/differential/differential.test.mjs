// teller beside the official facilitator classes of @x402/evm, on one chain: the same requests, and the same answers but for
// the differences that docs/conformance.md lists.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { startTeller } from "../harness.mjs";
import { groups } from "./cases/all.mjs";
import { Differences } from "./compare.mjs";
import { startReference } from "./reference.mjs";
import { MUST_BE_SERVED, whatIsServed } from "./served.mjs";
import { Suite } from "./suite.mjs";
import { page } from "./table.mjs";
import { makeWorld } from "./world.mjs";

const LEAST_CASES = 300;

describe("teller beside the official facilitator", { concurrency: 1 }, () => {
  let teller, suite;

  before(async () => {
    teller = await startTeller();
    const world = await makeWorld(teller);
    const [reference, differences] = await Promise.all([startReference(world, teller.devnet.rpc), Differences.load()]);
    world.facilitators.reference = reference.nextAddress;
    const serves = await whatIsServed(world, teller);
    suite = new Suite({ teller, reference, differences, serves });
    suite.world = world;
  });

  after(() => teller?.stop());

  it("is asked about every way of paying that it must serve", () => {
    for (const way of MUST_BE_SERVED) assert.ok(suite.serves.has(way), `teller no longer serves ${way}`);
  });

  for (const group of groups) {
    it(group.name, { timeout: 180_000 }, async (test) => {
      const cases = group.casesIn(() => suite.world);
      await group.around(suite.world, () => suite.run(group, cases));
      if (!suite.serves.has(group.needs)) test.skip(`${cases.length} cases are not asked: teller does not serve ${group.needs}`);
    });
  }

  it("has every listed difference in docs/conformance.md", async () => {
    const { is, shouldBe } = await page();
    assert.equal(is, shouldBe, "run: node e2e/differential/table.mjs --write");
  });

  it("still differs in everything that is listed as a difference", () => {
    assert.deepEqual(suite.differences.unmet(suite.notServed), []);
  });

  it(`compares at least ${LEAST_CASES} requests`, (test) => {
    const { cases, agreed, listed } = suite.tally;
    test.diagnostic(`${cases} requests: ${agreed} answered alike, ${listed} with a listed difference; `
      + `${suite.notServed.length} not asked, because teller does not serve them`);
    assert.ok(cases >= LEAST_CASES, `${cases} cases were compared`);
  });
});
