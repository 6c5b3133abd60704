/** Run with `node --test`. Exact values come from the dumps in docs/format.md; the conformance suite has a runner of its own. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { FormatError, open } from "../deepcompress.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

/** The bytes of the first dumps of two sections of the specification. */
function dump(heading) {
  const text = readFileSync(`${ROOT}docs/format.md`, "utf8").split(heading)[1];
  const lines = text.match(/```\n([0-9a-f]{4}  [0-9a-f \n]+)```/)[1].trim().split("\n");
  return Uint8Array.from(lines.flatMap((line) => line.slice(6).trim().split(" ")), (byte) => parseInt(byte, 16));
}

for (const [heading, version] of [["## 8. ", 1], ["## 12. ", 2]]) {
  test(`the file of section ${heading.slice(3, -2)} has the values that the text gives`, () => {
    const file = open(dump(heading));
    assert.equal(file.version, version);
    assert.deepEqual([file.network, file.data], ["", "digits"]);
    const weight = file.get("fc.weight");
    assert.ok(weight instanceof Float32Array);
    assert.equal(weight.filter((value) => value).length, 64);
    assert.deepEqual([...weight.slice(0, 9)], [0, 0.5, 0, 0, 0.5, 0, 0, 0, 0.5]);
    const { codebook, indices } = file.shared("fc.weight");
    assert.deepEqual([...codebook], [-1, 0.25, 0.5]);
    assert.deepEqual([...indices.slice(0, 5)], [0, 3, 0, 0, 3]);
    assert.equal(file.shared("fc.bias"), null);
  });
}

test("the file of section 20 has the values that the text gives", () => {
  const file = open(dump("## 20. "));
  assert.deepEqual([...file.get("w").slice(0, 8)], [0, 0, 0.5, 0.5, 0, 0, 1, 0]);
  assert.deepEqual([...file.get("m").filter(Boolean)], [0.75, -10, 0.5, -0.25]);
  assert.deepEqual([...file.shared("w").codebook], [-1, 0.5, 1]);
  assert.equal(file.shared("m"), null);
  assert.deepEqual(file.info("m").parts, { codebook: 10, tables: 46, offsets: 0, weights: 6 });
});

test("the facts of a tensor are those of the header", () => {
  const file = open(dump("## 8. "));
  assert.deepEqual(file.names, ["fc.weight", "fc.bias", "steps"]);
  const { parts, ...facts } = file.info("fc.weight");
  assert.deepEqual(parts, { codebook: 12, tables: 7, offsets: 11, weights: 10 });
  assert.deepEqual(facts, {
    name: "fc.weight", dtype: "float32", shape: [16, 16], size: 256, encoding: "coded", storedBytes: 40, alias: undefined,
    nonzeros: 64, codebookSize: 3, offsetBits: 3, fillers: 0,
  });
  assert.deepEqual(file.get("steps"), BigInt64Array.of(3n));
  assert.throws(() => file.get("nothing"), RangeError);
});

test("an ArrayBuffer, a Buffer and a part of a larger array are the same file", () => {
  const bytes = dump("## 12. ");
  const around = new Uint8Array(bytes.length + 7).fill(9);
  around.set(bytes, 3);
  for (const source of [bytes.buffer, Buffer.from(bytes), around.subarray(3, 3 + bytes.length)]) {
    assert.deepEqual([...open(source).get("fc.bias")], new Array(16).fill(0.5));
  }
});

test("a file that decodes to more than maxBytes is opened, but not decoded", () => {
  const file = open(dump("## 8. "), { maxBytes: 1095 }); // 1024 + 64 + 8 bytes
  assert.equal(file.info("fc.weight").size, 256);
  assert.throws(() => file.get("steps"), { name: "FormatError", section: 7 });
  assert.deepEqual(open(dump("## 8. "), { maxBytes: 1096 }).get("steps"), BigInt64Array.of(3n));
});

test("no byte of a file can be changed, and none can be missing", () => {
  for (const bytes of [dump("## 8. "), dump("## 12. "), dump("## 20. ")]) {
    for (let at = 0; at < bytes.length; at++) {
      const changed = bytes.slice();
      changed[at] ^= 1 << at % 8;
      assert.throws(() => open(changed).verify(), FormatError, `byte ${at}`);
      assert.throws(() => open(bytes.slice(0, at)).verify(), FormatError, `${at} bytes`);
    }
  }
});
