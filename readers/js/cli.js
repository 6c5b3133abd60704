#!/usr/bin/env node
/**
 * Prints what a `.dc` file holds, as one JSON object; for a file that cannot be read a line on stderr, and exit code 1.
 * With --lines it reads paths from stdin, a line each, and answers each with a line: that object, or {"error": "…"}.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
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

function answer(path) {
  try {
    return contents(path);
  } catch (error) {
    return { error: `${path}: ${error.message}`.replace(/\s+/g, " ") };
  }
}

const [path, ...more] = process.argv.slice(2);
if (path === "--lines" && !more.length) {
  for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(answer(line)));
} else if (path === undefined || more.length || path.startsWith("-")) {
  console.error("Usage: deepcompress-read MODEL.dc | --lines");
  process.exit(2);
} else {
  const found = answer(path);
  if (found.error === undefined) console.log(JSON.stringify(found, null, 2));
  else {
    console.error(`Error: ${found.error}`);
    process.exitCode = 1;
  }
}
