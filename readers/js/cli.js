#!/usr/bin/env node
/** Prints what a `.dc` file holds, as one JSON object; for a file that cannot be read a line on stderr, and exit code 1. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { open } from "./deepcompress.js";

function contents(path) {
  const file = open(readFileSync(path));
  file.verify();
  const tensors = file.names.map((name) => {
    const { dtype, shape } = file.info(name);
    return { name, dtype, shape, sha256: createHash("sha256").update(file.bytes(name)).digest("hex") };
  });
  return { version: file.version, network: file.network, data: file.data, tensors };
}

const [path, ...more] = process.argv.slice(2);
if (path === undefined || more.length || path.startsWith("-")) {
  console.error("Usage: deepcompress-read MODEL.dc");
  process.exit(2);
}
try {
  console.log(JSON.stringify(contents(path), null, 2));
} catch (error) {
  console.error(`Error: ${path}: ${error.message}`.replace(/\s+/g, " "));
  process.exitCode = 1;
}
