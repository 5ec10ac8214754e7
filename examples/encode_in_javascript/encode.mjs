// Encode raw rows as the inputs of a bundle's model, in JavaScript without packages.
//
//     node encode.mjs artifacts/model              encodes samples/raw-rows.json of the bundle and compares
//     node encode.mjs artifacts/model rows.json    prints the inputs for a list of rows, as JSON
//
// It reads nothing but the bundle's encoding.json; docs/encoding.md of recprune-export is the specification of that file. A row is
// an object with a value for each field, null where it is missing; for a model of histories it is {"history": [oldest item, ...]}.
// Integers above 2^53 have to be texts, since JSON.parse rounds numbers to float64.

import { readFileSync } from "node:fs";
import { join } from "node:path";

const PLAIN = /^-?(0|[1-9][0-9]*)\.[0-9]*$/;
const SCIENTIFIC = /^-?[0-9](\.[0-9]+[eE][+-]?|[eE][+-])[0-9]+$/;
const NUMBER = /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/;
const INFINITE = /^[+-]?(inf|infinity)$/i;
const DATE = /^([1-9][0-9]{3})-([0-9]{2})-([0-9]{2})(?:[ T]([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.[0-9]+)?)?Z?)?$/;
const DECIMAL_COMMA = /^-?[0-9]+,[0-9]+$/;
const BOOLEANS = new Map([["true", 1], ["True", 1], ["TRUE", 1], ["false", 0], ["False", 0], ["FALSE", 0]]);

export class Encoder {
  constructor(encoding) {
    if (encoding.specification !== 1) throw new Error(`encoding.json follows specification ${encoding.specification}, not 1`);
    this.encoding = encoding;
    this.missing = encoding.schema.missing;
    this.ids = new Map();
    for (const { name, kind, first_id: first } of encoding.inputs) {
      if (kind === "numbers") continue;
      const values = kind === "items" ? encoding.items : encoding.vocabularies[name];
      this.ids.set(name, new Map(values.map((value, position) => [value, first + position])));
    }
  }

  // The inputs of the model by name, each a list with one entry for each row.
  encode(rows) {
    return Object.fromEntries(this.encoding.inputs.map((input) => [input.name, rows.map((row) => this.#input(input, row))]));
  }

  #input(input, row) {
    const ids = this.ids.get(input.name);
    if (input.kind === "numbers") return this.#numbers(row);
    const value = row[input.columns[0]];
    if (input.kind === "id") return ids.get(canonicalText(value)) ?? input.unknown_id;
    if (input.kind === "items") {
      const known = (row.history ?? []).map((item) => ids.get(canonicalText(item))).filter((id) => id !== undefined);
      const last = known.slice(-input.max_length);
      return [...Array(input.max_length - last.length).fill(input.padding_id), ...last];
    }
    const texts = listTexts(value, input.separator).filter((text) => text !== null && !this.missing.includes(text));
    const found = texts.slice(0, input.max_length).map((text) => ids.get(text) ?? input.unknown_id);
    return [...found, ...Array(input.max_length - found.length).fill(input.padding_id)];
  }

  #numbers(row) {
    const { schema, means, stds } = this.encoding;
    const scale = (number, name) => (number === null ? 0 : Math.fround((number - means[name]) / stds[name]));
    const columns = schema.numeric.map((name) => scale(toNumber(row[name], this.missing), name));
    for (const { name, size } of schema.vectors) {
      const vector = row[name] ?? Array(size).fill(null);
      if (vector.length !== size) throw new Error(`'${name}' holds ${vector.length} numbers, not ${size}`);
      columns.push(...vector.map((number, position) => scale(number, `${name}_${position}`)));
    }
    return columns;
  }
}

// The text by which a vocabulary knows a value; null where it is missing.
export function canonicalText(value) {
  if (value === null || value === undefined || value === "") return null;
  if (typeof value === "boolean") return String(value);
  if (typeof value === "number") return Number.isInteger(value) && Math.abs(value) < 1e21 ? BigInt(value).toString() : String(value);
  if (PLAIN.test(value)) value = value.replace(/0+$/, "").replace(/\.$/, "");
  else if (SCIENTIFIC.test(value) && Number.isFinite(Number(value))) return canonicalText(Number(value));
  else if (BOOLEANS.has(value)) return value.toLowerCase();
  return value === "-0" ? "0" : value;
}

// The texts of a list, or of a text that a separator divides.
function listTexts(value, separator) {
  if (value === null || value === undefined) return [];
  if (separator === undefined) return value.map(canonicalText);
  return typeof value === "string" ? value.split(separator).map((part) => canonicalText(strip(part))) : [canonicalText(value)];
}

// The number of a value; null where it is missing or no number.
export function toNumber(value, missing = []) {
  if (typeof value === "string" && missing.includes(strip(value))) return null;
  const number = typeof value === "string" ? numberOfText(strip(value)) : value === null || value === undefined ? null : Number(value);
  return missing.some((word) => number !== null && plainNumber(word) === number) ? null : number;
}

function numberOfText(text) {
  const number = plainNumber(text);
  if (number !== null) return number;
  if (DECIMAL_COMMA.test(text)) return Number(text.replace(",", "."));
  const [, year, month, day, hour = 0, minute = 0, second = 0] = (DATE.exec(text) ?? []).map((part) => part && (Number(part) || 0));
  if (year !== undefined) {
    const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
    return date.getUTCMonth() === month - 1 && date.getUTCDate() === day ? date.getTime() / 86_400_000 : null;
  }
  return BOOLEANS.get(text) ?? null;
}

function plainNumber(text) {
  if (NUMBER.test(text)) return Number(text);
  return INFINITE.test(text) ? (text.startsWith("-") ? -Infinity : Infinity) : null;
}

function strip(text) {
  return text.replace(/^[ \t\n\v\f\r]+|[ \t\n\v\f\r]+$/g, "");
}

function readJson(path) {
  return JSON.parse(readFileSync(path, "utf8"));
}

function compare(encoder, { rows, inputs }) {
  let equal = true;
  for (const [name, encoded] of Object.entries(encoder.encode(rows))) {
    const expected = inputs[name].map((row) => (Array.isArray(row) ? row.map((each) => Math.fround(each)) : row));
    const same = encoded.filter((row, position) => String(row) === String(expected[position])).length;
    console.log(`${name}: ${same} of ${rows.length} rows equal`);
    equal &&= same === rows.length;
  }
  return equal;
}

// A number that JSON has no form for is written as a word.
const asWord = (_, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);

const [bundle, file] = process.argv.slice(2);
if (bundle === undefined) {
  console.error("Usage: node encode.mjs BUNDLE [rows.json]");
  process.exit(2);
}
const encoder = new Encoder(readJson(join(bundle, "encoding.json")));
if (file !== undefined) console.log(JSON.stringify(encoder.encode(readJson(file)), asWord));
else if (!compare(encoder, readJson(join(bundle, "samples", "raw-rows.json")))) process.exit(1);
