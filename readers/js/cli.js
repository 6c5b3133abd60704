#!/usr/bin/env node
/** Prints what a `.dc` file holds, as one JSON object; for a damaged file a line on stderr, and exit code 1. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { FormatError, open } from "./deepcompress.js";

function contents(path) {
  const file = open(readFileSync(path));
  file.verify();
  const tensors = file.names.map((name) => {
    const { dtype, shape } = file.info(name);
    return { name, dtype, shape, sha256: createHash("sha256").update(file.bytes(name)).digest("hex") };
  });
  return { version: file.version, network: file.network, data: file.data, tensors };
}

const paths = process.argv.slice(2);
if (paths.length !== 1 || paths[0].startsWith("-")) {
  console.error("Usage: deepcompress-read MODEL.dc");
  process.exit(2);
}
try {
  console.log(JSON.stringify(contents(paths[0]), null, 2));
} catch (error) {
  if (!(error instanceof FormatError) && !error.code && !(error instanceof RangeError)) throw error;
  console.error(`Error: ${paths[0]}: ${error.message}`);
  process.exit(1);
}
