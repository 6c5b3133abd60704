/**
 * Applies updates (`.dcp`) of `.dc` files, bit for bit:
 *
 *     import { patch } from "./update.js";
 *     const now = patch(old, update); // Uint8Array or ArrayBuffer; the new file as a Uint8Array
 *
 * Written from docs/update-format.md; the sections in comments and errors are those of that page. The file uses what
 * deepcompress.js reads with, so the two must be of one release.
 */
import { inside } from "./deepcompress.js";

const { adaptive, bitLength, bytesOf, clamp, crc32, DICTIONARY, DISTANCES, endBits, fixedLengths, floor, inflate } = inside;
const { LENGTHS, LIMIT, makeTables, matrixOf, newCursor, parse, parseTensor, printable, range, readBook, repeated } = inside;
const { sorted, words, wordsOf } = inside;

/** What is wrong with an update, or with the file that it is given. `section` is that of update-format.md. */
export class UpdateError extends Error {
  constructor(section, message) {
    super(`${message} (update-format, section ${section})`);
    this.name = "UpdateError";
    this.section = section;
  }
}

const must = (holds, section, message = "the update is damaged") => {
  if (!holds) throw new UpdateError(section, message);
};

/** Added to the sections of update-format.md in cursors, whose faults `patch` makes an UpdateError. */
const OF_UPDATE = 128;
const cursorOver = (bytes, section) => newCursor(bytes, OF_UPDATE + section);

// The file (sections 1 and 2) -------------------------------------------------------------------------------

const join = (parts) => {
  const all = words(
    parts.reduce((sum, part) => sum + part.length, 0),
    1,
  );
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

/** The first 64 primes, of whose roots the constants of SHA-256 are made. */
const PRIMES = range(312, (i) => i).filter((n) => n > 1 && range(n, (i) => i).every((d) => d < 2 || n % d));
const fraction = (root) => ((root - floor(root)) * 2 ** 32) | 0;

/** SHA-256 (FIPS 180-4): the engine's own is asynchronous in browsers. */
const sha256 = (bytes) => {
  const padded = words((bytes.length + 72) & ~63, 1);
  padded.set(bytes);
  padded[bytes.length] = 128;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, bytes.length / 2 ** 29);
  view.setUint32(padded.length - 4, bytes.length * 8);
  const hash = Int32Array.from(PRIMES.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
  const constants = PRIMES.map((prime) => fraction(Math.cbrt(prime)));
  const w = new Int32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < padded.length; at += 64) {
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i++) {
      if (i < 16) w[i] = view.getInt32(at + 4 * i);
      else {
        const [x, y] = [w[i - 15], w[i - 2]];
        w[i] = w[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
      }
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((each, i) => (hash[i] += each));
  }
  const out = new DataView(words(32, 1).buffer);
  hash.forEach((each, i) => out.setInt32(4 * i, each));
  return new Uint8Array(out.buffer);
};

const same = (a, b) => a.every((byte, i) => byte === b[i]);

const expand = (section, ...given) => {
  try {
    return inflate(...given);
  } catch {
    return must(false, section);
  }
};

/** Facts, with payloads behind them: those are taken from `payloads`, and the facts from the cursor that is returned. */
const readFacts = (payloads) => {
  payloads.section = OF_UPDATE + 2;
  const length = payloads.varint(2 ** 26);
  const deflated = payloads.varint(2 ** 26);
  const stored = payloads.take(deflated || length);
  return cursorOver(deflated ? expand(2, stored, length) : stored, 3);
};

/**
 * The new file that an update makes of the old one.
 *
 * @param {Uint8Array | ArrayBuffer} old the file that the update was made for, byte for byte
 * @param {Uint8Array | ArrayBuffer} update
 * @param {{maxBytes?: number}} options most bytes of all decoded tensors of the new file together; without it 1024 times
 *   old file and update, and at least 256 MiB
 * @returns {Uint8Array} the new file, which has the SHA-256 that the update names
 * @throws {UpdateError | FormatError} the update is damaged, is for another file, or was applied already
 */
export function patch(old, update, options = {}) {
  try {
    return applied(old, update, options);
  } catch (error) {
    must(!(error.section > OF_UPDATE), error.section - OF_UPDATE);
    throw error;
  }
}

const applied = (old, update, { maxBytes }) => {
  const before = bytesOf(old);
  const payloads = cursorOver(bytesOf(update), 1);
  must(`${payloads.take(3)}` === "137,68,80", 1, "this is no update");
  must(payloads.byte() === 1, 1, "this reader applies version 1 of updates; `deepcompress patch` may know this one");
  const [oldName, newName, kind] = [payloads.take(8), payloads.take(16), payloads.byte()];
  const found = sha256(before);
  must(same(oldName, found) || !same(newName, found), 1, "the update is already applied: this is the new file");
  must(same(oldName, found), 1, "the update is for another file");
  must(kind < 3, 1);
  must(kind < 2, 7, "this is an update of a checkpoint, which `deepcompress patch` applies");
  const most = maxBytes ?? Math.max(1024 * (before.length + payloads.rest().length + 29), 2 ** 28);
  const made = kind ? build(before, readFacts(payloads), payloads, most) : payloads.rest();
  must(same(newName, sha256(made)), 1, "it does not give the file that it names: the update is damaged");
  return made;
};

// Tensors (section 3) ---------------------------------------------------------------------------------------

const step = (cursor) => cursor.signed(2 ** 53);

const readLabels = (facts) => {
  const labels = facts.rest();
  facts.text();
  facts.text();
  const parts = [];
  const count = facts.varint(255);
  const start = labels.subarray(0, labels.length - facts.rest().length);
  for (let left = count; left; left--) {
    const rest = facts.rest();
    facts.text();
    facts.take(facts.varint(2 ** 26));
    parts.push([0], rest.subarray(0, rest.length - facts.rest().length));
  }
  return join([start, ...parts]);
};

/** The new file of kind 1. */
const build = (bytes, facts, payloads, most) => {
  const old = parse(bytes);
  const oldTensors = [...old.tensors.values()];
  const flags = facts.byte(3);
  const labels = flags & 1 ? readLabels(facts) : old.labels;
  const headerLength = flags & 2 && facts.varint(2 ** 26);
  const deflated = flags & 2 && facts.varint(2 ** 26);
  must(!(flags & 2) || headerLength, 3);
  const dictionary = bytes.subarray(0, old.start).subarray(-32768);
  const told = headerLength && expand(3, payloads.take(deflated), headerLength, dictionary);
  const made = []; // records as the reader has them, with their sections
  const names = new Set();
  let [name, next, total] = [words(0, 1), 0, 0];

  const sectionOf = ({ section, crc }) => {
    if (crc) newCursor(crc, 3).crc(section);
    return section;
  };
  const mustHold = ({ dense }) =>
    must(total + dense <= most, 8, `the new file's tensors take more than maxBytes = ${most}`);
  const add = (info, text, section) => {
    must(!names.has(text), 3, `there are two tensors ${text}`);
    must(!(info.number >= made.length), 3, `tensor ${text} refers to one that does not come before it`);
    names.add(text);
    made.push({ ...info, name: text, section, crc: null });
    mustHold(info);
    total += info.dense;
  };
  const readName = () => {
    const start = name.subarray(0, facts.varint(name.length));
    const rest = facts.take(facts.varint(512 - start.length));
    must(start.length === name.length || rest[0] !== name[start.length], 3);
    name = join([start, rest]);
    must(name.length, 3);
    return printable(name);
  };
  const readBase = () => {
    next += step(facts);
    must(next >= 0 && next < oldTensors.length, 3);
    return oldTensors[next++];
  };
  const readLayout = (text) => {
    const record = newCursor(facts.take(facts.varint(1024)), 13);
    if (!record.rest().length) return null;
    const info = parseTensor(record, text, made, 3, false);
    record.end();
    return info;
  };
  const stored = (tensor) => {
    while (tensor.target) tensor = tensor.target;
    return tensor;
  };
  const differ = newDifferences();
  const tools = { facts, payloads, sectionOf, made, differ, stored };

  while (facts.rest().length) {
    const op = facts.byte(4);
    if (!op) {
      const first = next + step(facts);
      must(first >= 0 && first < oldTensors.length, 3);
      const count = facts.varint(oldTensors.length - first);
      must(count, 3);
      next = first + count;
      for (const tensor of oldTensors.slice(first, next)) add(tensor, tensor.name, sectionOf(tensor));
      continue;
    }
    const text = readName();
    if (op === 2) {
      const info = readLayout(text);
      const length = facts.varint(2 ** 53);
      must(info?.length === length, 3);
      add(info, text, payloads.take(length));
      continue;
    }
    const base = readBase();
    if (op === 1) add(base, text, sectionOf(base));
    else {
      const info = readLayout(text) ?? stored(base);
      mustHold(info);
      const [now, section] = (op === 3 ? sharedTensor : exactTensor)(info, base, tools);
      add(now, text, section);
    }
  }
  payloads.end();
  const sections = made.map((tensor) => tensor.section);
  const start = told || headerOf(labels, made);
  const file = join([start, ...sections]);
  return join([file, crcOf(file)]);
};

const crcOf = (bytes) => words(words([crc32(bytes)], 4).buffer, 1);

// Shared tensors (section 4) --------------------------------------------------------------------------------

const isShared = ({ layout, coders }) => layout === 5 || (layout === 2 && (coders & 15) !== 4) || layout === 8;

/** The fields of a codebook, which a record of a tensor has, too. */
const bookOf = ({ k, form, ends, bookBytes, book }) => ({ k, form, ends, bookBytes, book, number: undefined });

const sharedTensor = (info, base, { facts, payloads, sectionOf, made, differ, stored }) => {
  const from = stored(base);
  must(isShared(from) && isShared(info) && !from.scaled && !info.scaled && from.size === info.size, 4);
  const owner = from.owner ?? from;
  const oldRaw = sectionOf(owner).subarray(0, owner.bookBytes);
  const way = facts.byte(3);
  let [fields, raw, length] = [bookOf(owner), oldRaw, 0];
  let shift = 0;
  if (way === 1) {
    const told = { type: info.type, width: info.width };
    readBook(facts, told, [], true);
    facts.section = OF_UPDATE + 3;
    fields = bookOf(told);
    length = facts.varint(2 ** 53);
  } else if (way === 2) {
    shift = Number(facts.varint(63));
    length = facts.varint(2 ** 53);
    must(owner.form < 2, 4);
  }
  const changed = range(3, () => facts.varint(2 ** 53));
  const changes = facts.varint(2 ** 53);
  if (way === 1) raw = payloads.take(length);
  if (way === 2) {
    const width = owner.form ? 2 : owner.width;
    const cursor = cursorOver(payloads.take(length), 6);
    raw = words(differ(cursor, wordsOf(oldRaw, width), width, shift)[0].buffer, 1);
    cursor.end();
  }
  const ofOwner = way === 3 ? made[info.number] : null;
  if (ofOwner) {
    must(ofOwner.owns && ofOwner.type === info.type && ofOwner.k === info.k, 4);
    fields = { ...bookOf(ofOwner), bookBytes: 0, number: info.number, owner: ofOwner };
    raw = words(0, 1);
  }
  must(way === 3 ? ofOwner : way === 1 || info.type === owner.type, 4);
  must(raw.length === fields.bookBytes, 4);
  const section = raw;
  const book = fields.book(ofOwner ? (tensor) => tensor.section ?? ofOwner.section : () => section);
  const now = { ...info, ...fields, owns: !ofOwner };
  now.book = () => book;
  const [entries] = sorted(book, info.width);
  const symbols = expected(from, sectionOf, entries, info.width);
  const cursor = cursorOver(payloads.take(changes), 5);
  decodeChanges(cursor, symbols, matrixOf(info.shape, info.layout === 5 && info.side), entries.length, changed);
  cursor.end();
  return info.layout === 5 ? adaptiveSection(now, raw, symbols) : streamSection(now, raw, symbols);
};

/** The ordered integers of floats as bits. */
const ordered = (bits, width) => {
  const top = 1n << BigInt(8 * width - 1);
  const number = BigInt(bits);
  return number < top ? number : -1n - (number - top);
};

/** The symbols of an old tensor, in terms of the new codebook. */
const expected = (from, sectionOf, entries, width) => {
  const oldBook = from.book(sectionOf);
  const [order, found] = from.indices(sectionOf(from), oldBook);
  const [oldEntries] = sorted(oldBook, from.width);
  const ranks = new Map([...oldEntries].map((bits, i) => [bits, i + 1]));
  let become = [0, ...[...order].map((bits) => ranks.get(bits))];
  if (entries.length !== oldEntries.length) {
    const now = [...entries].map((bits) => Number(ordered(bits, width)));
    const nearest = [...oldEntries].map((bits) => {
      const at = Number(ordered(bits, from.width));
      let best = 0;
      now.forEach((each, i) => (best = Math.abs(at - each) < Math.abs(at - now[best]) ? i : best));
      return now.length && best + 1;
    });
    become = become.map((rank) => rank && nearest[rank - 1]);
  }
  return found.map((index) => become[index]);
};

/** A tensor of layout 2: its record and its section. */
const streamSection = (info, raw, symbols) => {
  const { k, coders, facts } = info;
  const codes = [coders >> 4, coders & 15];
  const huffman = !codes.includes(2) || codes.includes(3);
  const book = info.book();
  const [entries] = sorted(book, info.width);
  const numbers = new Map([...book].map((bits, i) => [bits, i]));
  const inFile = [...entries].map((bits) => numbers.get(bits) + 1);
  must(info.layout === 2, 4, "a tensor of layout 8 cannot be written by this reader; `deepcompress patch` can");
  const indices = symbols.map((symbol) => symbol && inFile[symbol - 1]);
  const weights = indices.filter(Boolean);
  if (!facts.offsetBits) return coded(info, raw, weights.length, writeSymbols(indices, k + 1, huffman));
  const stream = writeSymbols(weights.map((index) => index - 1), k, huffman);
  return withOffsets(info, raw, symbols, weights.length, stream, huffman);
};

/** What is nonzero lies behind offsets of the layout's width. */
const withOffsets = (info, raw, found, count, stream, huffman) => {
  const filler = 2 ** info.facts.offsetBits - 1;
  const skips = [];
  let gap = 0;
  for (let i = 0; i < found.length; i++) {
    if (!found[i]) gap++;
    else {
      for (; gap >= filler; gap -= filler) skips.push(filler);
      skips.push(gap);
      gap = 0;
    }
  }
  return coded(info, raw, count, stream, writeSymbols(skips, filler + 1, huffman), skips.length - count);
};

const coded = (info, raw, count, stream, offsets, fillers = 0) => {
  const none = words(0, 1);
  const [ofOffsets, skips] = offsets ? [offsets.table, offsets.payload] : [none, none];
  const tables = join([ofOffsets, stream.table]);
  const section = join([raw, tables, skips, stream.payload]);
  const parts = { codebook: raw.length, tables: tables.length, offsets: skips.length, weights: stream.payload.length };
  const facts = { ...info.facts, nonzeros: count, fillers, parts };
  return [{ ...info, coders: ((offsets?.coder ?? 0) << 4) | stream.coder, facts, length: section.length }, section];
};

/** A tensor of layout 5. */
const adaptiveSection = (info, raw, symbols) => {
  const { shape, size, side, flags, k } = info;
  const count = symbols.reduce((sum, symbol) => sum + !!symbol, 0);
  const negative = sorted(info.book(), info.width)[1];
  const blocks = [];
  let decisions = [];
  const record = (p, bit) => {
    if (p) return decisions.push(2 * p + bit);
    blocks.push(giveDecisions(decisions));
    decisions = [];
  };
  adaptive(words(0, 1), size, count, k, negative, matrixOf(shape, side), flags & 1, symbols, record);
  const parts = blocks.flatMap((block) => (blocks.length > 1 ? [varint(block.length), block] : [block]));
  const section = join([raw, ...parts]);
  const lengths = { codebook: raw.length, tables: 0, offsets: 0, weights: section.length - raw.length };
  return [{ ...info, facts: { ...info.facts, nonzeros: count, parts: lengths }, length: section.length }, section];
};

/** The bytes of decisions (format, section 11), the last one first: each is twice the probability of 1, and the bit. */
const giveDecisions = (decisions) => {
  const bytes = [];
  let state = 0;
  for (let i = decisions.length; i--; ) {
    const p = decisions[i] >> 1;
    const bit = decisions[i] & 1;
    const width = bit ? p : 65536 - p;
    for (; state >= width * 65536; state = floor(state / 256)) bytes.push(state % 256);
    state = floor(state / width) * 65536 + (state % width) + (bit ? 65536 - p : 0);
  }
  for (; state; state = floor(state / 256)) bytes.push(state % 256);
  return words(bytes.reverse(), 1);
};

// Changes (section 5) ---------------------------------------------------------------------------------------

/** A decoder of decisions (format, section 11). */
const newDecoder = (bytes, section) => {
  let [state, at] = [0, 0];
  const refill = () => {
    while (state < 2 ** 24 && at < bytes.length) state = state * 256 + bytes[at++];
  };
  must(bytes[0] !== 0, section);
  refill();
  return {
    decide(p) {
      const zero = 65536 - p;
      const low = state & 65535;
      const bit = low >= zero ? 1 : 0;
      state = (bit ? p : zero) * (state >>> 16) + low - (bit ? zero : 0);
      refill();
      return bit;
    },
    end: () => must(at === bytes.length && !state, section),
  };
};

/** Slots of an adaptive probability v and a count; that of a slot without a value is 0. */
const newSlots = (size) => {
  const v = new Int32Array(size);
  const counts = new Int32Array(size);
  return {
    v,
    counts,
    /** With `truncate`, what a 0 takes away is rounded down. */
    learn(slot, bit, limit, truncate) {
      const share = (((bit ? 2 ** 30 - 1 : 0) - v[slot]) * floor(65536 / counts[slot])) / 65536;
      v[slot] += truncate ? Math.trunc(share) : floor(share);
      if (counts[slot] < limit) counts[slot]++;
    },
  };
};

/** Makes of expected symbols, in their place, the new ones. */
const decodeChanges = (cursor, symbols, [rows, columns, plane, line], k, changed) => {
  const size = symbols.length;
  const weights = symbols.reduce((sum, symbol) => sum + !!symbol, 0);
  const [back, fell, moved] = changed;
  must(back <= size - weights && fell + moved <= weights, 5);
  if (!(back || fell || moved)) return;
  must((!back || k) && (!moved || k > 1), 5);
  const [stretch, squash] = makeTables();
  const left = [...changed];
  const rest = [size - weights, weights, weights];

  const counts = [new Float64Array(rows), new Float64Array(columns)];
  symbols.forEach((symbol, i) => {
    if (symbol) [counts[0][floor(i / columns)]++, counts[1][i % columns]++];
  });
  const classes = counts.map((each) =>
    each.map((count) => {
      const share = floor((4 * count * each.length) / Math.max(1, weights));
      return [1, 3, 5, 8].filter((bound) => bound <= share).length;
    }),
  );

  const sizes = [rows, columns, plane].map((many) => Math.min(many, 65536));
  sizes.push(64, k + 1, 25, 64);
  let ofKind = 0;
  const starts = sizes.map((each) => (ofKind += each) - each);
  const slots = newSlots(3 * ofKind);
  const mixes = range(3, () => [19661, 6554, 6554, 3277, 9830, 13107, 9830, 3277]);
  const logits = new Int32Array(8);
  const used = new Int32Array(7);
  const [ups, fars, tree] = [k + 1, 16, k + 1].map(newSlots);
  const old = symbols.slice();
  let [decoder, gap] = [null, 0];

  const mixed = (kind, i) => {
    const row = floor(i / columns);
    const column = i % columns;
    const place = column % plane;
    const saw = (distance, bit) => (old[i - distance] === symbols[i - distance] ? 0 : bit) | (old[i - distance] ? 2 * bit : 0);
    const beside =
      (place % line ? saw(1, 1) : 0) |
      (place >= line ? saw(line, 4) : 0) |
      (row && old[i - columns] !== symbols[i - columns] ? 16 : 0) |
      (i + 1 < size && old[i + 1] ? 32 : 0);
    const filled = 5 * classes[0][row] + classes[1][column];
    const p = clamp(floor((left[kind] * 65536) / rest[kind]), 1, 65535);
    const count = clamp(floor(65536 / (8 * Math.min(p, 65536 - p))), 2, 300);
    const weight = mixes[kind];
    logits[0] = stretch[p];
    [row & 65535, column & 65535, place & 65535, beside, old[i], filled, bitLength(gap)].forEach((slot, table) => {
      const at = (used[table] = kind * ofKind + starts[table] + slot);
      if (!slots.counts[at]) [slots.v[at], slots.counts[at]] = [p * 2 ** 14, count];
      logits[table + 1] = stretch[slots.v[at] >> 14];
    });
    let sum = 0;
    for (let j = 0; j < 8; j++) sum += weight[j] * logits[j];
    const probability = squash[clamp(floor(sum / 65536), -LIMIT, LIMIT) + LIMIT];
    const bit = decoder.decide(probability);
    const error = 3 * ((bit ? 65535 : 0) - probability);
    for (let j = 0; j < 8; j++) weight[j] += Math.imul(error, logits[j]) >> 19;
    for (const at of used) slots.learn(at, bit, 400);
    return bit;
  };
  /** Whether a change of this kind is at element i. */
  const whether = (kind, i) => {
    const bit = left[kind] === 0 ? 0 : left[kind] >= rest[kind] ? 1 : mixed(kind, i);
    rest[kind]--;
    left[kind] -= bit;
    if (kind === 1 && bit) rest[2]--;
    return bit;
  };
  /** A decision by one slot alone. */
  const alone = (table, slot) => {
    if (!table.counts[slot]) [table.v[slot], table.counts[slot]] = [2 ** 29, 2];
    const bit = decoder.decide(squash[stretch[table.v[slot] >> 14] + LIMIT]);
    table.learn(slot, bit, 250);
    return bit;
  };
  const move = (before) => {
    const up = before > 1 && before < k ? alone(ups, before) : +(before === 1);
    let [far, beyond] = [1, (up ? k - before : before - 1) + 1];
    while (beyond - far > 1) {
      const middle = far < 8 ? far + 1 : (far + beyond) >> 1;
      if (alone(fars, 2 * (far < 8 ? far : 0) + up)) far = middle;
      else beyond = middle;
    }
    return before + (up ? far : -far);
  };
  const cameBack = () => {
    let [low, high] = [0, k];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (alone(tree, middle)) low = middle;
      else high = middle;
    }
    return low + 1;
  };

  for (let start = 0; start < size; start += 65536) {
    const length = cursor.rest().length;
    decoder = newDecoder(cursor.take(size > 65536 ? cursor.varint(length) : length), 5);
    for (let i = start; i < Math.min(size, start + 65536); i++) {
      const before = old[i];
      let bit = whether(before ? 1 : 0, i);
      if (bit) symbols[i] = before ? 0 : cameBack();
      else if (before && (bit = whether(2, i))) symbols[i] = move(before);
      gap = bit ? 0 : gap + 1;
    }
    decoder.end();
  }
};

// Differences (section 6) -----------------------------------------------------------------------------------

/**
 * A function that decodes new elements of w bytes from as many old ones, and says how many are others. What it learns
 * goes on from call to call.
 */
const newDifferences = () => {
  const memory = {};
  return (cursor, old, w, shift) => {
    memory[w] ??= { slots: newSlots(CHANGED + 2048 + 512 + 64 * 256), lately: 0 };
    const now = old.slice();
    let changed = 0;
    for (let start = 0; start < old.length; start += 65536) {
      const block = cursorOver(cursor.take(cursor.varint(2 ** 53)), 6);
      changed += decodeBlock(block, now.subarray(start, start + 65536), w, BigInt(shift), memory[w]);
    }
    return [now, changed];
  };
};

// Slots: parents of changed, negative, more and the tree; the two bits after the first; and then those by context.
const [NEGATIVE, MORE, NODES, TOP, CHANGED] = [8, 9, 10, 74, 330];
const BOUNDS = [80, 400, 1000, 2200, 4500, 9000, 20000];

const decodeBlock = (cursor, elements, w, shift, memory) => {
  const { slots } = memory;
  const { v, counts, learn } = slots;
  const bits = 8 * w;
  const decoder = newDecoder(cursor.take(cursor.varint(2 ** 53)), 6);
  const raw = cursor.rest();
  let at = 0; // of the raw bits
  const fresh = (slot, parent) => {
    if (counts[slot]) return;
    v[slot] = counts[parent] ? v[parent] : 2 ** 29;
    counts[slot] = 2;
  };
  const decide = (slot, parent, changes) => {
    fresh(parent, parent);
    fresh(slot, parent);
    const bit = decoder.decide(Math.max(1, v[slot] >> 14));
    if (counts[slot] < 24 && parent !== slot) learn(parent, bit, 900);
    learn(slot, bit, 900, changes);
    return bit;
  };
  const contextOf = (old) =>
    w < 2 ? old & 127 : w < 8 ? floor(old / 2 ** (bits - 9)) & 255 : Number((old >> 55n) & 255n);

  const places = [];
  elements.forEach((old, i) => {
    const seen = (memory.lately >> 6) * 64;
    const level = BOUNDS.filter((bound) => bound <= seen).length;
    if (decide(CHANGED + 8 * contextOf(old) + level, level, true)) {
      places.push(i);
      memory.lately += (65535 - memory.lately) >> 5;
    } else memory.lately -= memory.lately >> 5;
  });

  const magnitude = (context) => {
    if (!decide(CHANGED + 2304 + context, MORE)) return 0n;
    let node = 1;
    while (node < bits) node = 2 * node + decide(CHANGED + 2560 + 64 * context + node, NODES + node);
    const b = node - bits;
    let [value, left, slot] = [1n, b, TOP + 4 * b];
    for (; left && b - left < 2; left--) {
      const bit = decide(slot, slot);
      value = 2n * value + BigInt(bit);
      slot += 1 + bit;
    }
    for (; left; left--, at++) value = 2n * value + BigInt(((raw[at >> 3] ?? 0) >> (~at & 7)) & 1);
    return value;
  };
  for (const i of places) {
    const context = contextOf(elements[i]);
    const negative = decide(CHANGED + 2048 + context, NEGATIVE);
    const m = magnitude(context);
    const difference = negative ? -1n - m : m + 1n;
    const sum = BigInt.asIntN(bits, ordered(elements[i], w) + (difference << shift));
    const found = BigInt.asUintN(bits, sum < 0 ? -1n - sum + (1n << BigInt(bits - 1)) : sum);
    elements[i] = w > 4 ? found : Number(found);
  }
  decoder.end();
  endBits(raw, at, OF_UPDATE + 6);
  return places.length;
};

/** A tensor told by its elements. */
const exactTensor = (info, base, { facts, payloads, sectionOf, differ, stored }) => {
  const from = stored(base);
  const width = Math.min(info.width, 8);
  const literal = info.layout === 2 && (info.coders & 15) === 4;
  must(literal || [0, 1, 4, 6].includes(info.layout), 3);
  must(Math.min(from.width, 8) === width && from.dense === info.dense, 3);
  const shift = facts.varint(63);
  const announced = facts.varint(2 ** 53);
  const cursor = cursorOver(payloads.take(facts.varint(2 ** 53)), 6);
  const old = words(bitsOf(from, sectionOf).buffer, width);
  const [now, changed] = differ(cursor, old, width, shift);
  cursor.end();
  must(changed === announced, 6);
  const bytes = words(now.buffer, 1);
  if (literal) return literalSection(info, wordsOf(bytes, info.width));
  const section = {
    0: () => bytes,
    1: () => writePlanes(bytes, info.width),
    4: () => bytes.subarray(0, info.width),
    6: () => writeRows(bytes, info),
  }[info.layout]();
  return [{ ...info, length: section.length }, section];
};

/** The elements of an old tensor as bits. */
const bitsOf = (tensor, sectionOf) => {
  if (tensor.bits) return tensor.bits(sectionOf(tensor));
  const [entries, symbols] = tensor.indices(sectionOf(tensor), tensor.book(sectionOf));
  return words(tensor.size, tensor.width).map((zero, i) => (symbols[i] ? entries[symbols[i] - 1] : zero));
};

const literalSection = (info, values) => {
  const weights = values.filter(Boolean);
  const stream = { coder: 4, table: words(0, 1), payload: words(weights.buffer, 1) };
  return withOffsets(info, words(0, 1), values, weights.length, stream, info.coders >> 4 !== 2);
};

// Writing sections (format, sections 5, 6 and 14) -----------------------------------------------------------

const varint = (number) => {
  const out = [];
  for (; number > 127; number = floor(number / 128)) out.push((number % 128) + 128);
  return words([...out, number], 1);
};

/** Collects bits: from the most significant one of each byte down; or, if `upward`, from the least significant one up. */
const newBitWriter = (upward) => {
  const bytes = [];
  let count = 0;
  const put = (value, width) => {
    for (let i = width; i--; count++) {
      if (!(count & 7)) bytes.push(0);
      bytes[bytes.length - 1] |= ((value >> i) & 1) << (upward ? count & 7 : ~count & 7);
    }
  };
  return { put, bytes: () => words(bytes, 1) };
};

const lanesOf = (count) => (count < 2 ** 17 ? 1 : 2 ** (31 - Math.clz32(count / 2048)));

/** The coder of these symbols, its table, and its stream. */
const writeSymbols = (symbols, alphabet, huffman = true) => {
  const counts = words(alphabet, 4);
  for (const symbol of symbols) counts[symbol]++;
  const occurring = counts.reduce((sum, count) => sum + !!count, 0);
  const none = words(0, 1);
  if (!occurring) return { coder: 0, table: none, payload: none };
  if (occurring < 2) return { coder: 1, table: varint(symbols[0]), payload: none };
  const width = 32 - Math.clz32(Math.max(1, alphabet - 1));
  const fixed = Math.ceil((symbols.length * width) / 8);
  if (huffman) {
    const lengths = codeLengths([...counts]);
    const table = packLengths(lengths);
    const bits = lengths.reduce((sum, length, symbol) => sum + length * counts[symbol], 0);
    const lanes = lanesOf(symbols.length);
    const more = lanes > 1 ? floor((5 * lanes) / 2) : 0;
    if (Math.ceil(bits / 8) + table.length + more < fixed) return { coder: 3, table, payload: writeWords(symbols, lengths, lanes) };
  }
  const out = newBitWriter();
  for (const symbol of symbols) out.put(symbol, width);
  return { coder: 2, table: none, payload: out.bytes() };
};

/** The words of a canonical code. */
const codeWords = (lengths) => {
  const code = [];
  let word = 0;
  for (let length = 1; length < 16; length++, word *= 2) {
    lengths.forEach((each, symbol) => each === length && (code[symbol] = word++));
  }
  return code;
};

const writeWords = (symbols, lengths, lanes) => {
  const code = codeWords(lengths);
  const writers = range(lanes, () => newBitWriter());
  symbols.forEach((symbol, i) => writers[i % lanes].put(code[symbol], lengths[symbol]));
  const payloads = writers.map((writer) => writer.bytes());
  if (lanes > 1) payloads.unshift(words(words(payloads.map((each) => each.length), 2).buffer, 1));
  return join(payloads);
};

/** Package-merge, of at most 15 bits: packages and leaves of one count are in the order of their first symbols. */
const codeLengths = (counts) => {
  const byOrder = (a, b) => a[0] - b[0] || a[1] - b[1];
  const leaves = counts.map((count, symbol) => [count, symbol, 1]).filter(([count]) => count).sort(byOrder);
  const levels = [];
  let packages = [];
  for (let level = 0; level < 15; level++) {
    const merged = [...leaves, ...packages].sort(byOrder);
    levels.unshift(merged.map((item) => item[2]));
    packages = range(merged.length >> 1, (i) => [merged[2 * i][0] + merged[2 * i + 1][0], merged[2 * i][1], 0]);
  }
  const lengths = counts.map(() => 0);
  let taken = 2 * (leaves.length - 1);
  for (const level of levels) {
    const found = level.slice(0, taken).filter(Boolean).length;
    leaves.slice(0, found).forEach(([, symbol]) => lengths[symbol]++);
    taken = 2 * (taken - found);
  }
  return lengths;
};

const packLengths = (lengths) => {
  const used = lengths.findLastIndex(Boolean) + 1;
  const out = newBitWriter();
  let before = 0;
  for (const length of lengths.slice(0, used)) {
    const difference = length - before;
    if (!difference) out.put(0, 1);
    else if (difference === 1) out.put(2, 2);
    else if (difference === -1) out.put(6, 3);
    else out.put(112 + length, 7);
    before = length;
  }
  return join([varint(used), out.bytes()]);
};

const writePlane = (symbols, alphabet) => {
  const { coder, table, payload } = writeSymbols(symbols, alphabet);
  return join([[coder], varint(table.length + payload.length), table, payload]);
};

const writePlanes = (bytes, width) =>
  join(range(width, (j) => writePlane(words(bytes.length / width, 1).map((_, i) => bytes[i * width + j]), 256)));

/** Rows by their kinds, as format, section 14, says of this writer. */
const writeRows = (bytes, { shape, width, dense, type }) => {
  const length = dense / shape[0];
  const rows = range(shape[0], (row) => bytes.subarray(row * length, (row + 1) * length));
  const zeros = { 0: [13, 16], 3: [29, 42] }[type] ?? [];
  const kinds = rows.map((row) => {
    if (same(row, repeated(row.subarray(0, width), length))) return 0;
    const used = [...wordsOf(row, width)].reduce((all, bits) => all | BigInt(bits), 0n);
    return 1 + zeros.filter((count) => !(used & ((1n << BigInt(count)) - 1n))).length;
  });
  must(new Set(kinds).size > 1, 3);
  const parts = [writePlane(kinds, 16)];
  for (let kind = 0; kind < 4; kind++) {
    const those = rows.filter((_, i) => kinds[i] === kind).map((row) => (kind ? row : row.subarray(0, width)));
    if (those.length) parts.push(writePlanes(join(those), width));
  }
  return join(parts);
};

// Writing the header (format, sections 1 to 4, 9, 10 and 13) ------------------------------------------------

/** The first version that has all of a tensor. */
const versionOf = ({ type, layout, form, number, coders }) => {
  if (type > 9 || layout > 5) return 3;
  if (layout > 3) return 2;
  return layout === 2 && number === undefined && form ? 2 : 1;
};

const headerOf = (labels, tensors) => {
  const version = Math.max(1, ...tensors.map(versionOf));
  const sections = tensors.reduce((sum, tensor) => sum + tensor.length, 0);
  if (version === 1) return packHeader(labels, tensors, 1, true);
  const short = packHeader(labels, tensors, version, false);
  return short.length + sections + 4 <= 65536 ? short : packHeader(labels, tensors, version, true);
};

const packHeader = (labels, tensors, version, checked) => {
  const encoder = new TextEncoder();
  const names = tensors.map((tensor) => encoder.encode(tensor.name));
  const bodyWith = (inLines) => {
    const nameAt = (i) => (inLines ? join([names[i], [10]]) : afterName(names[i], names[i - 1] ?? []));
    const records = tensors.map((tensor, i) => {
      const fields = packTensor(tensor, version);
      const crc = checked && !tensor.target ? crcOf(tensor.section) : [];
      return join(version > 1 ? [fields, crc] : [nameAt(i), fields, crc]);
    });
    const first = version > 1 ? range(names.length, nameAt) : [];
    return join([labels, varint(tensors.length), ...first, ...records]);
  };
  const magic = [137, 68, 67, version];
  const withCrc = (bytes) => (checked ? join([bytes, crcOf(bytes)]) : bytes);
  const body = bodyWith(version > 1);
  if (version === 1) return withCrc(join([magic, varint(body.length), body]));
  const packed = body.length <= 4096 ? deflate(body) : body;
  const length = varint(body.length);
  if (packed.length + length.length < body.length) {
    return withCrc(join([magic, [checked ? 3 : 1], varint(packed.length), length, packed]));
  }
  const plain = version > 2 ? bodyWith(false) : body;
  return withCrc(join([magic, [checked ? 2 : 0], varint(plain.length), plain]));
};

const afterName = (name, before) => {
  let shared = 0;
  while (shared < Math.min(name.length, before.length) && name[shared] === before[shared]) shared++;
  return join([varint(shared), varint(name.length - shared), name.subarray(shared)]);
};

const signed = (number) => varint(number < 0 ? -2 * number - 1 : 2 * number);
const packNumber = (high, number) => (number < 15 ? [(high << 4) | number] : [(high << 4) | 15, number]);

const packTensor = (tensor, version) => {
  const { type, shape, layout, flags, length, number, k, form, ends, bookBytes, facts, side, coders } = tensor;
  const kind = version > 1 ? [...packNumber(shape.length, type), ...packNumber(flags, layout)] : [(layout << 4) | type];
  const parts = [kind, ...(version > 1 ? [] : [varint(shape.length)]), ...shape.map(varint)];
  if (layout === 1 || layout === 6) parts.push(varint(length));
  if (layout === 3 || layout === 7) parts.push(varint(number));
  if (![2, 5, 8].includes(layout)) return join(parts);
  const owned = number === undefined;
  parts.push(varint(k), varint(owned ? (version > 1 ? form : 0) : number + (version > 1 ? 8 : 1)));
  if (owned && form > 1) parts.push(...ends.map(signed));
  if (tensor.scaled) parts.push(varint(bookBytes));
  parts.push(varint(facts.nonzeros));
  const { tables, offsets, weights } = facts.parts;
  if (layout === 2) {
    parts.push([facts.offsetBits], [coders], varint(tables), varint(weights));
    if (facts.offsetBits) parts.push(varint(facts.fillers), varint(offsets));
  } else if (layout === 5) parts.push(...(flags & 2 ? [varint(side)] : []), varint(weights));
  else parts.push(varint(tables), varint(weights));
  return join(parts);
};

/** One block of fixed codes, in the fewest bits, with the dictionary of format, section 9. */
const deflate = (body) => {
  const window = join([DICTIONARY, body]);
  const begin = DICTIONARY.length;
  const codeIn = (table, value) => table.findLastIndex(([base]) => base <= value);
  const lengthBits = range(259, (length) => {
    const code = codeIn(LENGTHS, length);
    return length < 3 ? 0 : (code < 23 ? 7 : 8) + LENGTHS[code][1];
  });
  const best = range(body.length + 1, () => [7, 0, 0]); // bits from here on, and the length and distance of what is first
  for (let at = window.length - 1; at >= begin; at--) {
    const rest = (length) => best[at + length - begin][0];
    let choice = [(window[at] < 144 ? 8 : 9) + rest(1), 1, 0];
    const most = Math.min(258, window.length - at);
    for (let from = at - 1, longest = 2; from >= 0 && longest < most; from--) {
      let length = 0;
      while (length < most && window[from + length] === window[at + length]) length++;
      const bits = 5 + (length > longest ? DISTANCES[codeIn(DISTANCES, at - from)][1] : 0);
      while (longest < length) {
        longest++;
        const all = lengthBits[longest] + bits + rest(longest);
        if (all < choice[0]) choice = [all, longest, at - from];
      }
    }
    best[at - begin] = choice;
  }
  const out = newBitWriter(true);
  const [symbols] = fixedLengths();
  const code = codeWords(symbols);
  const extra = (value, [base, count]) => range(count, (i) => out.put(((value - base) >> i) & 1, 1));
  const symbol = (each) => out.put(code[each], symbols[each]);
  out.put(1, 1);
  out.put(2, 2); // the bits 1, 0: type 1
  for (let at = begin; at < window.length; ) {
    const [, length, distance] = best[at - begin];
    if (distance) {
      const [ofLength, ofDistance] = [codeIn(LENGTHS, length), codeIn(DISTANCES, distance)];
      symbol(257 + ofLength);
      extra(length, LENGTHS[ofLength]);
      out.put(ofDistance, 5);
      extra(distance, DISTANCES[ofDistance]);
    } else symbol(window[at]);
    at += length;
  }
  symbol(256);
  return out.bytes();
};
