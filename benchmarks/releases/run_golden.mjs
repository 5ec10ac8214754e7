// Run golden requests in onnxruntime-node or onnxruntime-web (wasm): node run_golden.mjs node|web MODULES REQUESTS.json
// REQUESTS.json: {bundle: {file: {model, absolute, relative, inputs: {name: {dtype, shape, data}}, outputs: {...}}}}.
// Prints one line of JSON: for each bundle and file "pass" or the reason.
import { readFileSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join, basename } from "node:path";

const [kind, modules, requests] = process.argv.slice(2);
const require = createRequire(join(modules, "index.js"));
const ort = require(kind === "node" ? "onnxruntime-node" : "onnxruntime-web");
if (kind === "web") ort.env.wasm.numThreads = 1;

const numbers = (text) => (text === "NaN" ? NaN : text === "Infinity" ? Infinity : text === "-Infinity" ? -Infinity : text);
const ARRAYS = {
  float32: (data) => Float32Array.from(data, numbers), float64: (data) => Float64Array.from(data, numbers),
  int64: (data) => BigInt64Array.from(data, BigInt), int32: (data) => Int32Array.from(data),
  bool: (data) => Uint8Array.from(data), string: (data) => data,
};

async function open(model) {
  if (kind === "node") return ort.InferenceSession.create(model);
  const external = `${model}.data`;
  const options = existsSync(external) ? { externalData: [{ path: basename(external), data: readFileSync(external) }] } : {};
  return ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"], ...options });
}

function differs(expected, got, absolute, relative) {
  if (expected.dtype === "string") return expected.data.some((text, i) => text !== got.data[i]);
  const reference = expected.data.map((value) => Number(numbers(value)));
  const finite = reference.filter(Number.isFinite);
  const size = Math.sqrt(finite.reduce((sum, value) => sum + value * value, 0) / Math.max(finite.length, 1));
  return reference.some((value, i) => {
    const other = Number(got.data[i]);
    if (Number.isNaN(value) || !Number.isFinite(value)) return !Object.is(value, other);
    return Math.abs(value - other) > absolute + relative * Math.max(Math.abs(value), size);
  });
}

async function judge({ model, absolute, relative, inputs, outputs }) {
  try {
    const session = await open(model);
    const feeds = {};
    for (const [name, { dtype, shape, data }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(dtype, ARRAYS[dtype](data), shape);
    const answer = await session.run(feeds);
    for (const [name, expected] of Object.entries(outputs)) if (differs(expected, answer[name], absolute, relative)) return `'${name}' differs`;
    return "pass";
  } catch (error) {
    return String(error.message ?? error).replace(/\s+/g, " ").slice(0, 160);
  }
}

const found = {};
for (const [bundle, files] of Object.entries(JSON.parse(readFileSync(requests, "utf8")))) {
  found[bundle] = {};
  for (const [name, file] of Object.entries(files)) found[bundle][name] = await judge(file);
}
console.log(JSON.stringify(found));
