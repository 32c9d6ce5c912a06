// `node table.mjs --write` puts the listed differences into docs/conformance.md, `node table.mjs` says whether they are there.

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { LIST, THROWS, VALID } from "./compare.mjs";

const PAGE = new URL("../../docs/conformance.md", import.meta.url);
const [BEGIN, END] = ["<!-- differences: begin -->", "<!-- differences: end -->"];

const SECTIONS = [
  ["Where teller is wrong", "Known and not mended yet.", ({ wrong }) => wrong],
  ["Where teller accepts and the reference refuses", "", ({ teller }) => teller === VALID],
  ["Where teller refuses and the reference accepts", "", ({ reference }) => reference === VALID],
  ["Where the reference throws",
    "It checks no shapes, so that its servers answer 500 to these; teller gives a reason.", ({ reference }) => reference === THROWS],
  ["Where both refuse for another reason", "", () => true],
];

/** The tables of `entries` in Markdown, each entry in the first section that it fits. */
export function tables(entries) {
  const rest = [...entries];
  return SECTIONS.flatMap(([title, text, fits]) => {
    const fitting = rest.filter(fits);
    if (fitting.length === 0) return [];
    fitting.forEach((entry) => rest.splice(rest.indexOf(entry), 1));
    const rows = fitting.map(({ cases, reference, teller, why }) =>
      `| ${cases.map(code).join("<br>")} | ${code(reference)} | ${code(teller)} | ${why} |`);
    return [`### ${title}`, "", ...(text ? [text, ""] : []),
      "| cases | the reference says | teller says | why |", "|---|---|---|---|", ...rows, ""];
  }).join("\n");
}

const code = (text) => `\`${text}\``;

/** The page as it is, and as it should be. */
export async function page() {
  const [text, entries] = await Promise.all([readFile(PAGE, "utf8"), readFile(LIST, "utf8").then(JSON.parse)]);
  const [before, rest] = text.split(BEGIN);
  const after = rest?.split(END)[1];
  if (after === undefined) throw new Error(`${fileURLToPath(PAGE)} has no place for the differences`);
  return { is: text, shouldBe: `${before}${BEGIN}\n\n${tables(entries)}\n${END}${after}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { is, shouldBe } = await page();
  if (process.argv.includes("--write")) await writeFile(PAGE, shouldBe);
  else if (is !== shouldBe) {
    console.error("docs/conformance.md lists other differences than e2e/differential/differences.json: run table.mjs --write");
    process.exit(1);
  }
}
