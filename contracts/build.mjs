// Compiles src/*.sol into artifacts/*.json. `--check` writes nothing and fails when an artefact is stale.
import { readdirSync, readFileSync, writeFileSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const artifacts = join(here, "artifacts");
const names = [
  "CompactWallet",
  "DelegationManager",
  "FeeDollar",
  "FeeToken",
  "HostileWallet",
  "Multicall3",
  "PaymentLens",
  "PermitToken",
  "PlainToken",
  "SignatureCheck",
  "SmartWallet",
  "SmartWalletFactory",
  "TestDollar",
  "TestDollarProxy",
  "X402ExactPermit2Proxy",
  "X402UptoPermit2Proxy",
];

// Where the devnet puts the library that the test dollar is linked to.
const libraries = { "SignatureCheck.sol": { SignatureCheck: "0xD7d7D7d7d7d7D7d7D7d7d7d7D7d7D7D7d7d7d702" } };

const sources = Object.fromEntries(
  readdirSync(join(here, "src"))
    .filter((file) => file.endsWith(".sol"))
    .map((file) => [file, { content: readFileSync(join(here, "src", file), "utf8") }]),
);

const input = {
  language: "Solidity",
  sources,
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 1_000_000 },
    viaIR: false,
    libraries,
    // No metadata in the bytecode: a changed comment must not change the artefacts.
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};

const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const problem of output.errors ?? []) console.error(problem.formattedMessage);
if ((output.errors ?? []).length > 0) process.exit(1);

const check = process.argv.includes("--check");
const stale = [];
mkdirSync(artifacts, { recursive: true });
for (const name of names) {
  const { abi, evm } = output.contracts[`${name}.sol`][name];
  const text =
    JSON.stringify(
      { abi, runtime: `0x${evm.deployedBytecode.object}`, creation: `0x${evm.bytecode.object}` },
      null,
      1,
    ) + "\n";
  const path = join(artifacts, `${name}.json`);
  let committed = "";
  try {
    committed = readFileSync(path, "utf8");
  } catch {
    // not built yet
  }
  if (committed === text) continue;
  if (check) stale.push(name);
  else writeFileSync(path, text);
}
for (const file of readdirSync(artifacts)) {
  if (names.includes(file.replace(/\.json$/, ""))) continue;
  if (check) stale.push(file);
  else rmSync(join(artifacts, file));
}
if (stale.length > 0) {
  console.error(`stale artefacts: ${stale.join(", ")}; run: node build.mjs`);
  process.exit(1);
}
console.log(check ? "artefacts are up to date" : `built ${names.join(", ")}`);
