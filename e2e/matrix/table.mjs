// The matrix of results as text: a row for each shop and way of paying, a column for each buyer.

const HEAD = ["shop", "version", "scheme", "method", "signature", "extension"];

export class Table {
  constructor() {
    this.buyers = [];
    this.rows = new Map();
  }

  /** What came of this buyer's payment. */
  put(buyer, row, result) {
    if (!this.buyers.includes(buyer)) this.buyers.push(buyer);
    const key = JSON.stringify(row);
    if (!this.rows.has(key)) this.rows.set(key, new Map());
    this.rows.get(key).set(buyer, result);
  }

  text() {
    const rows = [...this.rows].map(([key, results]) =>
      [...JSON.parse(key), ...this.buyers.map((buyer) => results.get(buyer) ?? "-")]);
    const lines = [[...HEAD, ...this.buyers], ...rows.sort((one, other) => order(one).localeCompare(order(other)))];
    const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
    const text = lines.map((line) => line.map((cell, column) => cell.padEnd(widths[column])).join("  ").trimEnd());
    return `${text.join("\n")}\n`;
  }
}

/** Rows stand by version and way, then by shop. */
const order = ([shop, version, scheme, method, signature, extension]) => [version, scheme, method, extension, signature, shop].join();
