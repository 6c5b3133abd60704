#!/usr/bin/env node
/** Writes the file that an update makes of an old one: OLD.dc UPDATE.dcp NEW.dc. NEW.dc is written whole, or not at all. */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { patch } from "./update.js";

const [old, update, out, ...more] = process.argv.slice(2);
if (out === undefined || more.length) {
  console.error("Usage: deepcompress-apply OLD.dc UPDATE.dcp NEW.dc");
  process.exit(2);
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
