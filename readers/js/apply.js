#!/usr/bin/env node
/** Writes the file that an update makes of an old one: OLD.dc UPDATE.dcp NEW.dc. NEW.dc, which must not be there yet, is written
    whole, or not at all. */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { patch } from "./update.js";

const [old, update, out, ...more] = process.argv.slice(2);
if (out === undefined || more.length) {
  console.error("Usage: deepcompress-apply OLD.dc UPDATE.dcp NEW.dc");
  process.exit(2);
}
if (existsSync(out)) {
  console.error(`Error: ${out}: it is there already; remove it, or give another name`);
  process.exit(1);
}
try {
  const made = patch(readFileSync(old), readFileSync(update));
  try {
    writeFileSync(`${out}.part`, made);
    renameSync(`${out}.part`, out);
  } catch (error) {
    rmSync(`${out}.part`, { force: true });
    throw error;
  }
} catch (error) {
  const about = error.code ? "" : `${update}: `; // what the system says names its file
  console.error(`Error: ${about}${error.message}`.replace(/\s+/g, " "));
  process.exitCode = 1;
}
