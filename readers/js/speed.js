#!/usr/bin/env node
/** Prints how fast the tensors of `.dc` files are decoded, in seconds of one core: the best of ten times, for each of 100,000 elements or more. */
import { readFileSync } from "node:fs";
import { open } from "./deepcompress.js";

for (const path of process.argv.slice(2)) {
  const file = open(readFileSync(path));
  for (const { name, size, encoding } of file.names.map(file.info).filter(({ size }) => size >= 1e5)) {
    let best = Infinity;
    for (let i = 0; i < 10; i++) {
      const start = process.cpuUsage();
      file.get(name);
      best = Math.min(best, process.cpuUsage(start).user / 1000);
    }
    const speed = (size / best / 1000).toFixed(1);
    console.log(`${path}: ${name}, ${encoding}: ${size.toLocaleString("en-US")} elements in ${best.toFixed(1)} ms, ${speed} million a second`);
  }
}
