/**
 * Reads `.dc` files: the tensors of one compressed neural network (versions 1 to 3 of the format).
 *
 *     import { open } from "./deepcompress.js";
 *     const file = open(bytes);              // Uint8Array or ArrayBuffer; reads the header
 *     const weight = file.get("fc1.weight"); // decodes one tensor: a typed array
 *
 * Written from docs/format.md alone; the sections in comments and errors are those of that page. One file, no
 * dependency, no eval. It needs a little-endian machine, which every browser and Node.js runs on.
 *
 * `parse` reads the header into a record for each tensor. The functions of a record decode its section; what only they
 * need lives in their closures.
 */

/** What is wrong with a file. `section` is the section of the specification that it breaks. */
export class FormatError extends Error {
  constructor(section, message) {
    super(`${message} (format, section ${section})`);
    this.name = "FormatError";
    this.section = section;
  }
}

/** Most defects need no text of their own: the section says whose rules are broken, and users can only get another file. */
const check = (holds, section, message = "the file is damaged") => {
  if (!holds) throw new FormatError(section, message);
};

/** The result of `work`; errors name the tensor. */
const inTensor = (name, work) => {
  try {
    return work();
  } catch (error) {
    error.message = `tensor ${name}: ${error.message}`;
    throw error;
  }
};

/**
 * Elements as bits, `width` bytes each: a NaN that is copied as a float may lose its payload. `source` is their number,
 * a buffer, or other elements.
 */
const words = (source, width) =>
  new (width > 4 ? BigUint64Array : [, Uint8Array, Uint16Array, , Uint32Array][width])(source);
/** Elements from bytes, which are copied, so that they align. */
const wordsOf = (bytes, width) => words(bytes.slice().buffer, width);

const range = (length, each) => Array.from({ length }, (_, i) => each(i));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const product = (numbers) => numbers.reduce((all, number) => all * number, 1);
const { floor } = Math;

// Checksums and numbers -------------------------------------------------------------------------------------

const CRC_TABLE = range(256, (byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

const crc32 = (bytes) => {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
};

/**
 * Floats of at most 16 bits, as float32: their sign bit, how many bits are mantissa, the bias of the exponent, and the
 * pattern that is NaN. Without one, the largest exponent is that of infinity and NaN.
 */
const small = (sign, mantissa, bias, nan) => (bits) =>
  new Float32Array(bits).map((all) => {
    const rest = all % sign;
    const exponent = rest >> mantissa;
    const fraction = (rest % 2 ** mantissa) / 2 ** mantissa;
    const most = sign - 2 ** mantissa;
    const size = exponent ? (1 + fraction) * 2 ** (exponent - bias) : fraction * 2 ** (1 - bias);
    const value = nan || rest < most ? size : rest > most ? NaN : Infinity;
    return all === nan || rest === nan ? NaN : all < sign ? value : -value;
  });
const float16 = small(2 ** 15, 10, 15);

/** By the number of a dtype (sections 3 and 13): its name, bytes of an element, and the array of its values or what makes it. */
const DTYPES = [
  ["float32", 4, Float32Array],
  ["float16", 2, float16],
  ["bfloat16", 2, (bits) => new Float32Array(words(bits, 4).map((half) => half << 16).buffer)],
  ["float64", 8, Float64Array],
  ["int8", 1, Int8Array],
  ["uint8", 1, Uint8Array],
  ["int16", 2, Int16Array],
  ["int32", 4, Int32Array],
  ["int64", 8, BigInt64Array],
  ["bool", 1, Uint8Array],
  ["float8_e4m3fn", 1, small(128, 3, 7, 127)],
  ["float8_e5m2", 1, small(128, 2, 15)],
  ["float8_e4m3fnuz", 1, small(128, 3, 8, 128)],
  ["float8_e5m2fnuz", 1, small(128, 2, 16, 128)],
  ["float8_e8m0fnu", 1, (bits) => new Float32Array(bits).map((byte) => (byte > 254 ? NaN : 2 ** (byte - 127)))],
  ["float4_e2m1fn_x2", 1, Uint8Array],
  ["uint16", 2, Uint16Array],
  ["uint32", 4, Uint32Array],
  ["uint64", 8, BigUint64Array],
  ["complex32", 4, (bits) => float16(words(bits.buffer, 2))],
  ["complex64", 8, Float32Array],
  ["complex128", 16, Float64Array],
];
const valuesOf = (bits, type) => {
  const make = DTYPES[type][2];
  return make.prototype ? new make(bits.buffer) : make(bits);
};

/** A cursor over bytes; `section` is that of the specification which says what stands there. */
const newCursor = (bytes, section) => {
  let at = 0;
  const cursor = {
    section,
    rest: () => bytes.subarray(at),
    take(length) {
      check(length <= bytes.length - at, cursor.section);
      at += length;
      return bytes.subarray(at - length, at);
    },
    /** A byte of at most `limit`. */
    byte(limit = 255) {
      const [byte] = cursor.take(1);
      check(byte <= limit, cursor.section);
      return byte;
    },
    /** A varint of at most `limit`. Above 2^53 it is not exact, but more than any limit. */
    varint(limit) {
      let value = 0;
      for (let i = 0, byte = 128; byte > 127; i++) {
        byte = cursor.byte();
        check(i < 9 && (byte || !i), cursor.section);
        value += (byte & 127) * 2 ** (7 * i);
      }
      check(value <= limit, cursor.section);
      return value;
    },
    /** A varint that says a signed number: 0, −1, 1, −2, … are 0, 1, 2, 3, … */
    signed(limit) {
      const value = cursor.varint(limit);
      return value & 1 ? -(value + 1) / 2 : value / 2;
    },
    text: () => printable(cursor.take(cursor.varint(255))),
    /** A CRC-32 comes next, and these bytes must have it. */
    crc: (of) => check(wordsOf(cursor.take(4), 4)[0] === crc32(of), cursor.section, "the checksum differs"),
    end: () => check(at === bytes.length, cursor.section),
  };
  return cursor;
};

/** What section 2 forbids in texts. */
const HIDDEN =
  /[\0-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff\u{110bd}\u{110cd}\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e00ff}\u{e01f0}-\u{10ffff}]/u;

const printable = (bytes) => {
  let text = "\n";
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // no UTF-8: refused below
  }
  check(!HIDDEN.test(text), 2);
  return text;
};

/**
 * Reads bits of bytes from the most significant one of each byte down; or, if `upward`, from the least significant one
 * up, as deflate has them. Past the end they are 0, which `endBits` finds.
 */
const newBits = (bytes, upward) => {
  const bits = (count) => {
    let value = 0;
    for (let i = 0; i < count; i++, bits.at++) {
      const bit = (bytes[bits.at >> 3] >> (upward ? bits.at & 7 : ~bits.at & 7)) & 1;
      value |= bit << (upward ? i : count - 1 - i);
    }
    return value;
  };
  bits.at = 0;
  return bits;
};

/** A stream of `at` bits must end in the last of the bytes, and what is left of that is 0. */
const endBits = (bytes, at, section) => {
  const left = 8 * bytes.length - at;
  check(left >= 0 && left < 8 && !(bytes.at(-1) & ((1 << left) - 1)), section);
};

/**
 * The canonical code of these lengths: the next `width` bits give the entry of `table` with symbol × 16 + length.
 * `filled` is the sum of 2^−length: 1 for a complete code.
 */
const codeOf = (lengths) => {
  const width = Math.max(0, ...lengths);
  const table = words(2 ** width, 4);
  let at = 0;
  for (let length = 1; length <= width; length++) {
    lengths.forEach((each, symbol) => {
      if (each === length) table.fill((symbol << 4) | length, at, (at += 2 ** (width - length)));
    });
  }
  return { width, table, filled: at / table.length };
};

// The header (sections 1 to 4, 9 and 10) --------------------------------------------------------------------

const MAX_HEADER = 2 ** 26;

/** Everything but the sections. The records have their `section`, unchecked, and its `crc`; `total` is decoded bytes. */
const parse = (bytes) => {
  const cursor = newCursor(bytes, 1);
  check(`${cursor.take(3)}` === "137,68,67", 1, "this is no .dc file");
  const version = cursor.byte();
  const newer = version > 1;
  check(version && version < 4, 1, `version ${version} is unknown`);
  const section = (cursor.section = newer ? 9 : 1);
  const flags = newer ? cursor.byte(3) : 2;
  const length = cursor.varint(MAX_HEADER);
  const inflated = flags & 1 && cursor.varint(4096);
  const stored = cursor.take(length);
  const checkAll = () => newCursor(bytes.subarray(-4), section).crc(bytes.subarray(0, -4));
  if (flags > 1) cursor.crc(bytes.subarray(0, -cursor.rest().length));
  else {
    check(bytes.length <= 65536, 9);
    checkAll();
  }
  const header = newCursor(flags & 1 ? inflate(stored, inflated) : stored, newer ? 9 : 2);
  const found = { version, checkAll, ...parseHeader(header, version, flags) };
  found.total = 0;
  found.start = bytes.length - cursor.rest().length;
  for (const tensor of found.tensors.values()) {
    tensor.section = cursor.take(tensor.length);
    if (tensor.encoding !== "alias") found.total += tensor.dense;
  }
  cursor.take(4);
  cursor.end();
  return found;
};

const parseHeader = (cursor, version, flags) => {
  const labels = cursor.rest();
  const network = cursor.text();
  const data = cursor.text();
  for (let left = cursor.varint(255); left; left--) skipExtension(cursor);
  const labelled = labels.subarray(0, labels.length - cursor.rest().length);
  const count = cursor.varint(2 ** 18);
  let bytes = [];
  const nextName = () => (bytes = version === 2 || flags & 1 ? nameOfLine(cursor) : nameAfter(cursor, bytes));
  const names = version > 1 && range(count, nextName);
  const tensors = new Map();
  const earlier = [];
  for (let i = 0; i < count; i++) {
    const text = names ? names[i] : nextName();
    const name = printable(text);
    check(name && text.length <= 512 && !tensors.has(name), 3);
    cursor.section = [3, 9, 13][version - 1];
    earlier.push(inTensor(name, () => parseTensor(cursor, name, earlier, version, flags > 1)));
    tensors.set(name, earlier[i]);
  }
  cursor.end();
  return { network, data, tensors, labels: labelled };
};

const skipExtension = (cursor) => {
  const flag = cursor.byte();
  const name = cursor.text();
  check(!flag, 2, `extension ${name} is unknown`);
  cursor.take(cursor.varint(MAX_HEADER));
};

/** The next name of version 1, and of version 3 without deflate, which shares a start with the name before it. */
const nameAfter = (cursor, before) => {
  const shared = cursor.varint(before.length);
  const rest = cursor.take(cursor.varint(512));
  check(shared === before.length || rest[0] !== before[shared], 3);
  return words([...before.slice(0, shared), ...rest], 1);
};

/** The next name of version 2, and of version 3 with deflate, ended by a line feed. */
const nameOfLine = (cursor) => {
  const name = cursor.take(cursor.rest().indexOf(10) >>> 0); // none: −1 becomes more bytes than there are
  cursor.byte();
  return name;
};

/** The record of a tensor (section 3, or the table of section 9, with what section 13 adds). */
const parseTensor = (cursor, name, earlier, version, checksums) => {
  const newer = version > 1;
  const number = (byte) => {
    if (version < 3 || (byte & 15) < 15) return byte & 15;
    const more = cursor.byte();
    return more < 15 ? 256 : more;
  };
  const kind = cursor.byte();
  const type = number(kind);
  const flags = newer ? cursor.byte() : 0;
  const layout = newer ? number(flags) : kind >> 4;
  const rank = newer ? kind >> 4 : cursor.varint(8);
  const known = type < (version > 2 ? 22 : 10) && layout < [4, 6, 9][version - 1] && rank < 9;
  check(known && flags < (layout === 5 ? 64 : 16), cursor.section, `dtype ${type} or layout ${layout} is unknown`);
  const shape = range(rank, () => cursor.varint(2 ** 40));
  check(product(shape.map((length) => length || 1)) <= 2 ** 40, 3);
  const [dtype, width] = DTYPES[type];
  const [encoding, read] = LAYOUTS[layout];
  const size = product(shape);
  const tensor = { name, dtype, type, shape, layout, flags: flags >> 4, encoding, width, size, dense: size * width };
  read(cursor, tensor, earlier, newer, flags >> 4);
  check(tensor.length <= tensor.dense, 3);
  if (checksums && !tensor.target) tensor.crc = cursor.take(4);
  return tensor;
};

// Plain tensors (sections 3, 6 and 9): `tensor.bits(section)` gives the bits of all elements ----------------

/** Raw elements, or a constant, of which one is stored. */
const readRaw = (cursor, tensor) => {
  const { encoding, width, size, dense } = tensor;
  const constant = encoding === "constant";
  tensor.length = constant ? width : dense;
  check(!constant || size > 1, 9);
  tensor.bits = (section) => elements(repeated(section, dense), tensor);
};

/** Bytes as often as they fit. */
const repeated = (bytes, length) => {
  const all = words(length, 1);
  all.set(bytes);
  for (let done = bytes.length; done && done < length; done *= 2) all.copyWithin(done, 0, done);
  return all;
};

const elements = (bytes, { dtype, width }) => {
  check(dtype !== "bool" || bytes.every((byte) => byte < 2), 3);
  return words(bytes.buffer, width);
};

/** An alias, or a copy, which is neither an alias nor of one. */
const readAlias = (cursor, tensor, earlier) => {
  const number = (tensor.number = cursor.varint(earlier.length - 1));
  const target = (tensor.target = earlier[number]);
  const fits = target.encoding !== "alias" && (target.encoding !== "copy" || tensor.encoding === "alias");
  const same = fits && target.type === tensor.type && `${target.shape}` === `${tensor.shape}`;
  check(same, cursor.section);
  tensor.length = 0;
};

/** What `work` makes of a cursor over the section, which it must come to the end of, are the bytes of all elements. */
const readBytes = (cursor, tensor, part, work) => {
  tensor.length = cursor.varint(tensor.dense);
  tensor.bits = (section) => {
    const inside = newCursor(section, part);
    const bytes = work(inside);
    inside.end();
    return elements(bytes, tensor);
  };
};

const readPlanes = (cursor, tensor) =>
  readBytes(cursor, tensor, 6, (inside) => planes(inside, tensor.size, tensor.width));

/** The bytes of `size` elements from their byte planes. */
const planes = (cursor, size, width) => {
  const bytes = words(size * width, 1);
  for (let j = 0; j < width; j++) plane(cursor, size, 256).forEach((symbol, i) => (bytes[i * width + j] = symbol));
  return bytes;
};

const plane = (cursor, size, alphabet) => {
  const coder = cursor.byte(3);
  const inside = newCursor(cursor.take(cursor.varint(2 ** 53)), cursor.section);
  return readSymbols(inside, coder, alphabet, size, inside.rest);
};

/** Rows of different kinds (section 14). */
const readRows = (cursor, tensor) => {
  const { shape, width, dense, size } = tensor;
  check(shape.length > 1 && size, 13);
  readBytes(cursor, tensor, 14, (inside) => {
    const kinds = plane(inside, shape[0], 16);
    const bytes = words(dense, 1);
    const length = dense / shape[0];
    for (let kind = 0; kind < 16; kind++) {
      const rows = [...kinds.keys()].filter((row) => kinds[row] === kind);
      const stored = kind ? length : width; // bytes of a row
      const found = rows.length ? planes(inside, (rows.length * stored) / width, width) : [];
      rows.forEach((row, i) => bytes.set(repeated(found.subarray(i * stored, (i + 1) * stored), length), row * length));
    }
    return bytes;
  });
};

// Streams of symbols (section 5) ----------------------------------------------------------------------------

/**
 * `count` symbols below `alphabet`, as a Uint16Array: the cursor `tables` is at the table of the coder (0 to 3), and
 * `stream` gives the bytes of the stream, when the table is read.
 */
const readSymbols = (tables, coder, alphabet, count, stream) => {
  const symbols = words(count, 2);
  if (coder < 2) {
    if (coder) symbols.fill(tables.varint(alphabet - 1));
    check(!stream().length && (coder || !count), 5);
    return symbols;
  }
  const fixed = 32 - Math.clz32(Math.max(1, alphabet - 1)); // bits of a symbol
  const { width, table } = coder > 2 ? readLengths(tables, alphabet) : codeOf(words(2 ** fixed, 1).fill(fixed));
  const bytes = stream();
  check(count <= 8 * bytes.length, 5);
  const cursor = newCursor(bytes, 5);
  const lanes = coder < 3 || count < 2 ** 17 ? 0 : 2 ** (31 - Math.clz32(count / 2048));
  const sizes = wordsOf(cursor.take(2 * lanes), 2);
  sizes.forEach((size, lane) => decodeLane(cursor.take(size), width, table, symbols, lane, lanes));
  if (!lanes) decodeLane(cursor.take(bytes.length), width, table, symbols, 0, 1);
  cursor.end();
  check(symbols.every((symbol) => symbol < alphabet), 5);
  return symbols;
};

/** A Huffman code, from the differences of its lengths. */
const readLengths = (tables, alphabet) => {
  const lengths = words(tables.varint(alphabet), 1);
  const bits = newBits(tables.rest());
  let length = 0;
  lengths.forEach((_, symbol) => {
    const before = length;
    if (bits(1)) {
      if (!bits(1)) length++;
      else if (!bits(1)) length--;
      else {
        length = bits(4);
        check(Math.abs(length - before) > 1, 5);
      }
    }
    check(length >= 0 && length < 16, 5);
    lengths[symbol] = length;
  });
  endBits(tables.take((bits.at + 7) >> 3), bits.at, 5);
  const code = codeOf(lengths);
  check(code.filled === 1 && length, 5);
  return code;
};

/** Decode a bit stream into every `step`-th symbol from `first` on. */
const decodeLane = (bytes, width, table, symbols, first, step) => {
  const mask = table.length - 1;
  let [word, held, at] = [0, 0, 0]; // the last bits read, how many of them are not decoded, and the next byte
  for (let i = first; i < symbols.length; i += step) {
    while (held < width) {
      word = (word << 8) | (at < bytes.length ? bytes[at] : 0);
      at++;
      held += 8;
    }
    const entry = table[(word >>> (held - width)) & mask];
    held -= entry & 15;
    symbols[i] = entry >>> 4;
  }
  endBits(bytes, 8 * at - held, 5);
};

// Codebooks (sections 4 and 10) -----------------------------------------------------------------------------

/**
 * Read the fields of a codebook of `k` entries, which takes `bookBytes` of the section. `tensor.book(sectionOf)` gives
 * the bits of its entries, with a function from a tensor to its section. With `scales`, form 5 is allowed too: what is
 * behind it is the caller's.
 */
const readBook = (cursor, tensor, earlier, newer, scales) => {
  check(tensor.type < 4 || (tensor.type > 9 && tensor.type < 14), 4);
  const section = (cursor.section = newer ? 10 : 4);
  const k = (tensor.k = cursor.varint(4096));
  const form = cursor.varint(earlier.length + (newer ? 7 : 0));
  const number = form - (newer ? 8 : 1);
  const owner = earlier[number];
  tensor.form = form;
  tensor.bookBytes = 0;
  if (owner) {
    tensor.owner = owner;
    tensor.number = number;
    check(owner.owns && owner.type === tensor.type && owner.k === k, section);
    tensor.book = owner.book;
    return;
  }
  if ((tensor.scaled = scales && form === 5)) return;
  tensor.owns = true;
  check(form < 5 && (!form || !tensor.type), 10);
  const width = form > 2 || form === 1 ? 2 : tensor.width;
  tensor.bookBytes = form > 1 ? width : k * width;
  const grid = form > 1 && readGrid(cursor, tensor, form);
  tensor.book = (sectionOf) => {
    const bytes = sectionOf(tensor).subarray(0, tensor.bookBytes);
    const values = wordsOf(grid ? bytes.subarray(0, width) : bytes, width);
    const entries = grid ? grid(values, bytes.subarray(width)) : form ? words(float16(values).buffer, 4) : values;
    const sound = entries.every((bits) => bits && (!form || (bits & 0x7f800000) !== 0x7f800000));
    check(sound && entries.length === k && new Set(entries).size === k, section);
    return entries;
  };
};

/** A function that makes the entries of a grid of its scale, as bits, and the bytes of its mask. */
const readGrid = (cursor, tensor, form) => {
  const [lowest, highest] = (tensor.ends = range(2, () => cursor.signed(2 ** 16)));
  const span = highest - lowest + 1;
  const more = span - (lowest <= 0 && highest >= 0) - tensor.k;
  check(tensor.k && more >= 0, 10);
  if (more) tensor.bookBytes += (span + 7) >> 3;
  return (bits, mask) => {
    const scale = valuesOf(bits, form - 2)[0];
    check(scale > 0, 10);
    const next = newBits(mask);
    const found = range(span, (i) => lowest + i).filter((number) => (more ? next(1) : number));
    if (more) endBits(mask, next.at, 10);
    return words(Float32Array.from(found, (number) => scale * number).buffer, 4);
  };
};

/** The length of a section with a codebook, and what callers are told of it; `parts` are bytes. */
const describe = (tensor, nonzeros, weights, tables = 0, offsets = 0, offsetBits = 0, fillers = 0) => {
  const codebook = tensor.bookBytes;
  tensor.length = codebook + tables + offsets + weights;
  const parts = { codebook, tables, offsets, weights };
  tensor.facts = { nonzeros, codebookSize: tensor.k, offsetBits, fillers, parts };
};

// Coded tensors (section 4): `tensor.indices(section, book)` gives the codebook in its order, and for each element
// 0 or the number of its entry, from 1 ------------------------------------------------------------------------

const readCoded = (cursor, tensor, earlier, newer) => {
  readBook(cursor, tensor, earlier, newer);
  cursor.section = 4;
  const { size, k, dense, width, bookBytes } = tensor;
  const count = cursor.varint(size);
  const bits = cursor.byte(12);
  const coders = cursor.byte();
  const [offsetCoder, coder] = [coders >> 4, coders & 15];
  const tables = cursor.varint(dense);
  const weights = cursor.varint(dense);
  const fillers = bits && cursor.varint((size - count) / (2 ** bits - 1));
  const offsets = bits && cursor.varint(dense);
  const literal = coder === 4;
  check(coder < 5 && offsetCoder < (bits ? 4 : 1), 4);
  check(literal ? bits && !k && weights === count * width : k || !count, 4);
  describe(tensor, count, weights, tables, offsets, bits, fillers);
  tensor.coders = coders;

  tensor.indices = (section, book) => {
    const inside = newCursor(section.subarray(bookBytes), 4);
    const codes = newCursor(inside.take(tables), 4);
    const places = bits && positions(codes, offsetCoder, bits, count, fillers, size, () => inside.take(offsets));
    const entries = literal ? wordsOf(inside.rest(), width) : book;
    const found = literal ? entries : readSymbols(codes, coder, bits ? k : k + 1, bits ? count : size, inside.rest);
    codes.end();
    const symbols = bits ? words(size, literal ? 4 : 2) : found;
    if (bits) places.forEach((place, i) => (symbols[place] = 1 + (literal ? i : found[i])));
    check(bits || found.reduce((sum, symbol) => sum + !!symbol, 0) === count, 4);
    check(!literal || entries.every(Boolean), 4);
    return [entries, symbols];
  };
};

/** The places of the weights, in order, from the relative offsets. */
const positions = (codes, coder, bits, count, fillers, size, stream) => {
  const places = new Float64Array(count);
  const filler = 2 ** bits - 1;
  const skips = readSymbols(codes, coder, filler + 1, count + fillers, stream);
  let [found, at] = [0, 0];
  skips.forEach((skip) => {
    at += skip;
    if (skip !== filler) places[found++] = at++;
  });
  check(found === count && at <= size && skips.at(-1) !== filler, 4);
  return places;
};

// Weights by an adaptive model (section 11) -----------------------------------------------------------------

const readAdaptive = (cursor, tensor, earlier, newer, flags) => {
  readBook(cursor, tensor, earlier, newer);
  cursor.section = 9;
  const { shape, size, k, bookBytes } = tensor;
  const deep = shape.length > 1;
  const count = cursor.varint(size);
  const side = flags > 1 && cursor.varint(2 ** 20);
  const columns = product(shape.slice(deep));
  const fits = flags > 1 ? side > 1 && columns && columns % side ** 2 === 0 : true;
  check(fits && (deep || !flags) && (k || !count), 9);
  tensor.side = side;
  describe(tensor, count, cursor.varint(tensor.dense));
  tensor.indices = (section, book) => {
    const [entries, negative] = sorted(book, tensor.width);
    return [entries, adaptive(section.subarray(bookBytes), size, count, k, negative, matrixOf(shape, side), flags & 1)];
  };
};

/** Rows, columns, columns of a plane, and of a line. */
const matrixOf = (shape, side) => {
  const deep = shape.length > 1;
  const columns = product(shape.slice(deep));
  const line = side || (shape.length > 2 ? shape.at(-1) : columns);
  return [deep ? shape[0] : 1, columns, side ? side ** 2 : shape.length > 2 ? product(shape.slice(2)) : columns, line];
};

/** Entries with the sign bit in falling magnitude, then the others in rising magnitude, and how many have it. */
const sorted = (book, width) => {
  const half = width > 4 ? 1n << 63n : 2 ** (8 * width - 1);
  const signed = (bits) => (bits < half ? bits : half - bits);
  const entries = book.slice().sort((a, b) => (signed(a) < signed(b) ? -1 : 1));
  return [entries, entries.filter((bits) => bits >= half).length];
};

const LIMIT = 2880;
const BLOCK = 2 ** 19;
let stretch; // stretch(p)
let squash; // squash(t) at t + 2880
const makeTables = () => {
  stretch ??= Int16Array.from(range(65536, (p) => clamp(Math.round(256 * Math.log(p / (65536 - p))), -LIMIT, LIMIT)));
  const squashed = (i) => clamp(Math.round(65536 / (1 + Math.exp((LIMIT - i) / 256))), 1, 65535);
  squash ??= words(range(2 * LIMIT + 1, squashed), 2);
  return [stretch, squash];
};

const bitLength = (number) => (number < 2 ** 31 ? 32 - Math.clz32(number) : floor(Math.log2(number)) + 1);

/**
 * For each element 0 or the number of its entry of the sorted codebook, from 1. The functions inside are the decoder
 * of the stream, the model of where weights are, that of which entry they are, and the walk over the elements.
 *
 * A writer gives these numbers as `given`, and no stream: then `record(p, bit)` is called for each decision, and
 * `record()` at the end of each block.
 */
const adaptive = (stream, size, count, k, negative, [rows, columns, planeSize, line], byColumn, given, record) => {
  makeTables();
  const symbols = words(size, 2);
  const cursor = newCursor(stream, 11);
  // The next element: its index, row, column, plane, place in the plane, and place in the line
  let [index, row, column, plane, place, x] = [0, 0, 0, 0, 0, 0];
  const beside = (left, up) =>
    x < left || x - left >= line || place < up * line ? 0 : symbols[index - up * line - left];

  // The decoder
  let [block, at, state] = [stream, 0, 0];
  const refill = () => {
    while (state < 2 ** 24 && at < block.length) state = state * 256 + block[at++];
  };
  /**
   * A model that mixes the logits of a slot of each table, and of what else is in `logits`, and learns. `sizes` are those
   * of the tables; `step` is 1 for the rate 32, and 3 for 96; the first four tables learn with `limit`, and those after
   * them with `later`. A slot is two numbers: an adaptive probability of 30 bits, and its count, which is 0 as long as
   * there is no value.
   */
  const newModel = (sizes, step, limit, later, weights) => {
    let total = 0;
    const starts = sizes.map((size) => (total += size) - size);
    const slots = new Int32Array(2 * total);
    const used = new Int32Array(sizes.length);
    const logits = new Int32Array(weights.length);
    weights = Float64Array.from(weights);
    return {
      logits,
      /** Take a slot of a table, and say its value; one without a value first gets this one. */
      look(table, slot, value, count) {
        const at = (used[table] = 2 * (starts[table] + slot));
        if (!slots[at + 1]) {
          slots[at] = value;
          slots[at + 1] = count;
        }
        logits[table] = stretch[slots[at] >> 14];
        return slots[at];
      },
      /** The next decision of the stream, or the one that is wanted. */
      decide(wanted) {
        let sum = 0;
        for (let i = 0; i < weights.length; i++) sum += weights[i] * logits[i];
        const probability = squash[floor(clamp(sum / 65536, -LIMIT, LIMIT)) + LIMIT];
        const zero = 65536 - probability;
        const low = state & 65535;
        const bit = (given ? wanted : low >= zero) ? 1 : 0;
        if (given) record(probability, bit);
        else state = (bit ? probability : zero) * (state >>> 16) + low - (bit ? zero : 0);
        refill();
        const error = ((bit ? 65535 : 0) - probability) * step;
        for (let i = 0; i < weights.length; i++) weights[i] += Math.imul(error, logits[i]) >> 17;
        for (let i = 0; i < used.length; i++) {
          const at = used[i];
          const count = slots[at + 1];
          slots[at] += floor((((bit ? 2 ** 30 - 1 : 0) - slots[at]) * ((65536 / count) | 0)) / 65536);
          if (count < (i < 4 ? limit : later)) slots[at + 1]++;
        }
        return bit;
      },
    };
  };

  // Is it a weight?
  const density = clamp(Number((BigInt(count) << 30n) / BigInt(size || 1)), 2 ** 15, 2 ** 30 - 2 ** 15);
  const confidence = clamp(floor(2 ** 26 / Math.min(density, 2 ** 30 - density)), 2, 2000);
  const base = stretch[density >> 14];
  // The logits are S1, S2, S4 to S9, S0, S3.
  const presence = newModel(
    [rows, columns, columns / planeSize || 0, planeSize, 64, 16, 64, 605].map((size) => Math.min(size, 65536)),
    1,
    588,
    4000,
    [11469, 5243, -1311, 4588, 15729, 13107, 10813, 2621, -17695, 11141],
  );
  const s = presence.logits;
  const is = (left, up, bit) => (beside(left, up) ? bit : 0);
  const level = (i, unit, middle) => clamp(floor((s[i] - base) / unit) + middle, 0, 2 * middle);
  let fresh; // the value of a slot that has none
  const look = (table, slot) => presence.look(table, slot, table < 4 ? density : fresh, confidence);
  /** The logit of the mean of the columns around, if there are any; it takes their slots, before that of the column. */
  const around = () => {
    let [sum, found] = [0, 0];
    for (let i = 0; i < (byColumn ? 2 : 4); i++) {
      const inside = i < 1 ? x : i < 2 ? place >= line : i < 3 ? x < line - 1 : place + line < planeSize;
      if (!inside) continue;
      sum += look(1, (column + (i < 2 ? -1 : 1) * (i & 1 ? line : 1)) & 65535);
      found++;
    }
    return found ? stretch[floor(sum / found) >> 14] : undefined;
  };
  const isWeight = (share, gap) => {
    s[8] = stretch[share];
    fresh = squash[s[8] + LIMIT] << 14;
    const near = is(1, 0, 1) | is(0, 1, 2);
    const before = (row && symbols[index - columns] ? 1 : 0) | (plane && symbols[index - planeSize] ? 2 : 0);
    const mean = around();
    look(0, row & 65535);
    look(1, column & 65535);
    look(2, plane & 65535);
    look(3, place & 65535);
    look(4, near | is(1, 1, 4) | is(-1, 1, 8) | is(2, 0, 16) | is(0, 2, 32));
    look(5, before | (near << 2));
    look(6, bitLength(gap));
    s[9] = mean ?? s[1];
    look(7, (11 * level(0, 128, 5) + level(1, 128, 5)) * 5 + level(9, 192, 2));
    return presence.decide(given?.[index]);
  };

  // Which entry?
  const classes = words(k + 1, 1).map((_, symbol) => {
    const j = symbol - 1 - negative;
    return symbol && (j < 0 ? 1 + floor((3 * (-1 - j)) / negative) : 4 + floor((3 * j) / (k - negative)));
  });
  const contexts = [1, 7, 7, 49, 9, 9];
  const entry = newModel(contexts.map((count) => count * k), 3, 250, 250, [-23593, 7209, 3277, 47841, 8847, 7864]);
  // Of each row, and then of each column: the class of the last weight, the magnitude, and the balance less 4
  const memory = new Int8Array(6 * 65536);
  const remember = (first, found) => {
    const magnitude = memory[first + 1];
    const larger = (found - 1) % 3;
    memory[first] = found;
    memory[first + 1] = magnitude ? Math.min(5, (3 * magnitude + 8 * larger + 2) >> 2) : 2 * larger + 1;
    memory[first + 2] = clamp(memory[first + 2] + (found < 4 ? -1 : 1), -4, 4);
  };
  const nextSymbol = () => {
    const [r, c] = [3 * (row & 65535), 3 * (65536 + (column & 65535))];
    const near = 7 * classes[beside(1, 0)] + classes[beside(0, 1)];
    let [low, high, balance] = [0, k, negative > 0 && negative < k ? 1 : 0];
    while (high - low > 1) {
      const middle = balance ? negative : (low + high) >> 1;
      const first = entry.look(0, middle, 2 ** 29, 65);
      const look = (table, context) => entry.look(table, middle * contexts[table] + context, first, 2);
      look(1, memory[r]);
      look(2, memory[c]);
      look(3, near);
      look(4, memory[r + 1 + balance] + 4 * balance);
      look(5, memory[c + 1 + balance] + 4 * balance);
      if (entry.decide(given?.[index] > middle)) low = middle;
      else high = middle;
      balance = 0;
    }
    remember(r, classes[++low]);
    remember(c, classes[low]);
    return low;
  };

  // The walk
  const next = () => {
    index += columns;
    if (byColumn && ++row < rows) return;
    if (++x === line) x = 0;
    if (++place === planeSize) {
      place = 0;
      plane++;
    }
    if (++column === columns) {
      column = plane = 0;
      row++;
    }
    if (byColumn) row = 0;
    index = row * columns + column;
  };
  let [left, gap] = [count, 0];
  for (let i = 0; i < size; ) {
    block = cursor.take(size > BLOCK && !given ? cursor.varint(stream.length) : stream.length);
    check(block[0] !== 0, 11);
    at = state = 0;
    refill();
    for (const end = Math.min(size, i + BLOCK); i < end; i++) {
      if (!left) i = end;
      else if (left === size - i || isWeight(Math.max(1, floor((left * 65536) / (size - i))), gap)) {
        symbols[index] = nextSymbol();
        left--;
        gap = 0;
      } else gap++;
      next();
    }
    check(at === block.length && !state, 11);
    if (given) record();
  }
  cursor.end();
  return symbols;
};

// Ranks and multiples (sections 17 to 19) -------------------------------------------------------------------

const readRanks = (cursor, tensor, earlier, newer) => {
  readBook(cursor, tensor, earlier, newer, true);
  cursor.section = 17;
  const { type, shape, size, width, dense, k, scaled } = tensor;
  const [lowest, highest] = range(scaled ? 2 : 0, () => cursor.signed(65534));
  if (scaled) {
    tensor.ends = [lowest, highest];
    tensor.bookBytes = cursor.varint(dense);
  }
  const count = cursor.varint(size);
  const [model, streams] = range(2, () => cursor.varint(dense));
  const fits = scaled ? !type && !k && shape.length > 1 && lowest <= highest : k || !count;
  check(size && fits, 17);
  describe(tensor, count, streams, model);
  /** The numbers of all elements, from `low` to `high`. */
  const numbersOf = (section, low, high) => {
    const inside = newCursor(section.subarray(tensor.bookBytes), 19);
    const numbers = decodeRanks(newCursor(inside.take(model), 18), inside, shape, size);
    inside.end();
    let found = 0;
    const fits = numbers.every((number) => {
      if (number) found++;
      return number >= low && number <= high;
    });
    check(fits && found === count, 17);
    return numbers;
  };
  if (scaled) {
    tensor.bits = (section) => {
      const steps = stepsOf(section.subarray(0, tensor.bookBytes), shape[0], Math.max(-lowest, highest));
      const numbers = numbersOf(section, lowest, highest);
      const columns = size / shape[0];
      return words(Float32Array.from(numbers, (number, i) => number && number * steps[floor(i / columns)]).buffer, 4);
    };
  } else {
    tensor.indices = (section, book) => {
      const [entries, negative] = sorted(book, width);
      const numbers = numbersOf(section, -negative, k - negative);
      return [entries, words(numbers.map((number) => number && number + negative + (number < 0)), 2)];
    };
  }
};

/** The step of each row, of which `most` is the largest multiple. */
const stepsOf = (bytes, rows, most) => {
  const cursor = newCursor(bytes, 17);
  const [scale] = valuesOf(cursor.take(4).slice(), 0);
  check(scale >= 2 ** -126, 17);
  const quarters = new Float32Array(words([0x3f800000, 0x3f9837f0, 0x3fb504f3, 0x3fd744fd], 4).buffer);
  const exponents = plane(cursor, rows, 256);
  cursor.end();
  const steps = Float32Array.from(exponents, (e) => Math.fround(scale * quarters[e & 3]) * 2 ** (e >> 2));
  check(steps.every((step) => step < Infinity && Math.fround(step * most) < Infinity), 17);
  return steps;
};

/** The numbers of all elements, from the bytes of a model and of its streams. */
const decodeRanks = (cursor, streams, shape, size) => {
  const rows = shape.length > 1 ? shape[0] : 1;
  const planes = shape.length > 2 ? shape[1] : 1;
  const columns = size / rows;
  const places = columns / planes;
  const gaps = cursor.byte(1);
  const high = cursor.varint(rows); // rows of a stream
  const powers = cursor.byte();
  const [down, across] = [powers >> 4, powers & 15];
  check(high && down + across < 9, 18);
  const base = cursor.varint(512) - 256;
  const [ofRow, ofPlane, ofPlace] = [rows, planes, places].map((many) =>
    cursor.byte(1) ? plane(cursor, many, 64) : words(many, 1),
  );
  const neighbours = range(cursor.byte(gaps ? 0 : 4), () => {
    const [up, left] = [cursor.varint(rows), cursor.varint(columns)];
    check(up || left, 18);
    return [up, left, (cursor.byte() << 24) >> 24, cursor.byte()];
  });
  const own = neighbours.length && cursor.byte();
  const tables = readTables(cursor, gaps ? 64 : neighbours.length ? 128 : 32);
  cursor.end();

  const numbers = new Int16Array(size);
  const ofColumn = words(columns, 1).map((_, c) => ofPlane[floor(c / places)] + ofPlace[c % places]);
  const order = gaps && inOrder(ofColumn);
  const lanes = 2 ** (down + across);
  const tokens = words(lanes, 1);
  const flips = words(lanes, 1);

  const decode = (first, end, cursor) => {
    // The decoder
    const states = wordsOf(cursor.take(4 * lanes), 4);
    const rest = cursor.rest();
    check(states.every((state) => state > 65535) && rest.length % 2 === 0, 19);
    const stored = wordsOf(rest, 2);
    let next = 0;
    const become = (lane, x) => {
      states[lane] = x < 65536 ? x * 65536 + stored[next++] : x;
    };
    const token = (lane, table) => {
      const x = states[lane];
      const entry = table[x & 4095];
      become(lane, (((entry >> 12) & 4095) + 1) * (x >>> 12) + (entry & 4095));
      return entry >> 24;
    };
    /** The magnitude of a class, with its extra bits. */
    const magnitude = (lane, kind) => {
      if (kind < 16) return kind;
      const x = states[lane];
      const bits = (kind >> 2) - 2;
      become(lane, x >>> bits);
      return ((4 + (kind & 3)) << bits) + (x & (2 ** bits - 1));
    };
    /** Every lane decodes a token by its context, unless that is negative, and then every such lane goes on with it. */
    const round = (context, then) => {
      for (let lane = 0; lane < lanes; lane++) {
        const found = context(lane);
        tokens[lane] = found < 0 ? 255 : token(lane, tables[found]);
      }
      for (let lane = 0; lane < lanes; lane++) if (tokens[lane] < 255) then(lane, tokens[lane]);
    };

    // Where each lane is: the number of its next element, and then its row and column in the lane and in the matrix
    const tall = Math.ceil((end - first) / 2 ** down);
    const wide = Math.ceil(columns / 2 ** across);
    const at = new Float64Array(lanes);
    let [i, j, row, column] = [0, 0, 0, 0];
    /** Go to the next element of a lane; false if there is none. */
    const go = (lane) => {
      const leftmost = (lane % 2 ** across) * wide;
      const width = gaps ? clamp(columns - leftmost, 0, wide) : wide;
      i = floor(at[lane] / width);
      j = at[lane] % width;
      row = first + (lane >> across) * tall + i;
      column = leftmost + j;
      const inside = i < tall && row < end && column < columns;
      if (gaps) column = order[column];
      return inside;
    };
    const scale = () => clamp(base + ofRow[row] + ofColumn[column], 0, 31);

    // Dense
    const context = (lane) => {
      if (!go(lane)) return -1;
      const s = scale();
      if (!neighbours.length) return s;
      let [aimed, sizes] = [0, 0];
      for (const [up, left, aim, size] of neighbours) {
        const near = up <= i && left <= j ? numbers[(row - up) * columns + column - left] : 0;
        aimed += aim * near;
        sizes += size * Math.abs(near);
      }
      flips[lane] = aimed < 0 ? 1 : 0;
      const expected = ((own * [64, 81, 102][s % 3] * 2 ** floor(s / 3)) >> 5) + 32 * sizes;
      // The bounds are 72, 88 and 112, doubled again and again, up to 72 · 2^10
      const held = Math.min(expected, 73728);
      const doubled = Math.max(0, 25 - Math.clz32(held));
      const level = 3 * doubled + [72, 88, 112].filter((bound) => bound * 2 ** doubled <= held).length;
      return 4 * level + [3, 10, 19].filter((times) => times * expected <= 512 * Math.abs(aimed)).length;
    };
    const put = (lane, token) => {
      check(token || !gaps, 19);
      go(lane);
      const number = magnitude(lane, (token + 1) >> 1);
      numbers[row * columns + column] = (token ^ flips[lane]) & 1 ? -number : number;
      at[lane]++;
    };

    // Gaps
    let open = 0;
    const weights = words(lanes, 1); // whether one follows the gap
    const ofGap = (lane) => (go(lane) ? (open = scale()) : -1);
    const skip = (lane, token) => {
      check(token < 60, 19);
      const gap = magnitude(lane, token);
      at[lane] += gap;
      weights[lane] = gap < 32767;
    };
    const ofWeight = (lane) => (weights[lane] && go(lane) ? 32 + scale() : -1);

    for (let n = 0; n < tall * wide && !gaps; n++) {
      at.fill(n);
      round(context, put);
    }
    while (gaps && open >= 0) {
      open = -1;
      round(ofGap, skip);
      round(ofWeight, put);
    }
    const all = !gaps || at.reduce((sum, each) => sum + each) === (end - first) * columns;
    check(all && next === stored.length && states.every((state) => state === 65536), 19);
  };

  for (let first = 0; first < rows; first += high) {
    const rest = streams.rest().length;
    const bytes = streams.take(high < rows ? streams.varint(rest) : rest);
    decode(first, Math.min(rows, first + high), newCursor(bytes, 19));
  }
  return numbers;
};

/** The numbers of the columns in rising order of their classes. */
const inOrder = (classes) => {
  const order = words(classes.length, 4);
  const starts = words(128, 4);
  classes.forEach((each) => starts[each + 1]++);
  starts.forEach((count, i) => (starts[i] = count + (starts[i - 1] ?? 0)));
  classes.forEach((each, column) => (order[starts[each]++] = column));
  return order;
};

/**
 * The table of each of `count` contexts: for each value of the low 12 bits of a state, from bit 0, that less where its
 * token begins; from bit 12 the frequency of the token, less 1; and from bit 24 the token.
 */
const readTables = (cursor, count) => {
  const [many, tokens] = [cursor.byte(64), cursor.byte(119)];
  check(many && tokens, 18);
  const contexts = plane(cursor, count, 64);
  check(contexts.every((table) => table < many), 18);
  const differences = plane(cursor, many * tokens, 64);
  let known = words(tokens, 1); // the levels of the table before
  const tables = range(many, (t) => {
    known = known.map((level, token) => (level + differences[t * tokens + token]) & 63);
    check(known.every((level) => level < 50) && known.some(Boolean), 18);
    const weights = [...known].map((level) => level && [64, 76, 91, 108][(level - 1) % 4] * 2 ** ((level - 1) >> 2));
    const all = weights.reduce((sum, weight) => sum + weight);
    const free = 4096 - weights.filter(Boolean).length;
    const table = words(4096, 4);
    let [sum, begin] = [0, 0];
    weights.forEach((weight, token) => {
      const before = floor((sum * free) / all);
      sum += weight;
      const size = floor((sum * free) / all) - before + (weight && 1);
      for (let i = 0; i < size; i++) table[begin++] = (token << 24) | ((size - 1) << 12) | i;
    });
    return table;
  });
  return [...contexts].map((table) => tables[table]);
};

/** By the number of an encoding or layout: its name, and what reads its fields in the header. */
const LAYOUTS = [
  ["raw", readRaw],
  ["planes", readPlanes],
  ["coded", readCoded],
  ["alias", readAlias],
  ["constant", readRaw],
  ["adaptive", readAdaptive],
  ["rows", readRows],
  ["copy", readAlias],
  ["ranks", readRanks],
];

// Deflate (RFC 1951), for the header of version 2 -----------------------------------------------------------

/** The preset dictionary of section 9; W and B stand for its most frequent parts. */
const DICTIONARY = new TextEncoder().encode(
  ("self_attn.q_projWmlp.down_projWlayers.0.embeddings.\ntorchvision:resnet50\x08imagenet\x00downsample.0Wclassi" +
    "fier.6Wfeatures.0Blayer1.0.conv1Wlayer1.0.bn1Wlayer1.0.bn1Blayer1.0.bn1.running_mean\nlayer1.0.bn1.running_v" +
    "ar\nlayer1.0.bn1.num_batches_tracked\nlayer2.0.conv2Wlayer2.0.bn2Wlayer3.0.shortcut.0WfcWfcB\x08resnet20\x07" +
    "cifar10\x00\x0dfashion-mnist\x06digits\x06lenet5\x05mnist\x00\x08conv1Wconv1Bconv2Wconv2B\x0dlenet-300-100" +
    "\x05mnist\x00\x06fc1Wfc1Bfc2Wfc2Bfc3Wfc3B")
    .replace(/W/g, ".weight\n")
    .replace(/B/g, ".bias\n"),
);

/** Where the codes of lengths and distances start, and how many extra bits they have (3.2.5). */
const extraBits = (base, group, count) =>
  range(count, (code) => {
    const extra = Math.max(0, floor(code / group) - 1);
    base += 2 ** extra;
    return [base - 2 ** extra, extra];
  });

const LENGTHS = [...extraBits(3, 4, 28), [258, 0]];
const DISTANCES = extraBits(1, 2, 30);
const LENGTHS_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

const fixedLengths = () => [range(288, (i) => (i < 144 || i > 279 ? 8 : i < 256 ? 9 : 7)), words(32, 1).fill(5)];

const sound = (holds) => check(holds, 9);

/** A code of deflate: complete, of a single bit, or empty. */
const deflateCode = (lengths) => {
  const code = codeOf(lengths);
  sound(code.filled === 1 || !code.width || (code.width === 1 && code.filled < 1));
  return code;
};

/**
 * Exactly `size` bytes, which may refer to a dictionary. Past the end of `bytes` there are zeros, which end or fill the
 * output.
 */
const inflate = (bytes, size, dictionary = DICTIONARY) => {
  const out = [...dictionary];
  const end = out.length + size;
  const bits = newBits(bytes, true);
  const put = (byte) => sound(out.push(byte) <= end);
  const next = ({ width, table }) => {
    for (let word = 0, length = 1; length <= width; length++) {
      word = word * 2 + bits(1);
      const entry = table[word << (width - length)];
      if ((entry & 15) === length) return entry >> 4;
    }
    return sound();
  };
  const value = ([base, extra] = sound()) => base + bits(extra);

  const stored = () => {
    bits.at = (bits.at + 7) & ~7;
    const length = bits(16);
    sound(bits(16) === (length ^ 65535));
    range(length, () => put(bits(8)));
  };
  const dynamicLengths = () => {
    const [literals, distances, count] = [bits(5) + 257, bits(5) + 1, bits(4) + 4];
    const first = words(19, 1);
    range(count, (i) => (first[LENGTHS_ORDER[i]] = bits(3)));
    const code = deflateCode(first);
    const lengths = [];
    while (lengths.length < literals + distances) {
      const symbol = next(code);
      const times = [3, 3, 11][symbol - 16] + bits([2, 3, 7][symbol - 16]) || 1;
      const length = symbol > 16 ? 0 : symbol < 16 ? symbol : lengths.at(-1);
      range(times, () => lengths.push(length));
    }
    sound(literals < 287 && distances < 31 && lengths.length === literals + distances && lengths[256]);
    return [lengths.slice(0, literals), lengths.slice(literals)];
  };
  const compressed = ([literals, distances]) => {
    for (let symbol; (symbol = next(literals)) !== 256; ) {
      if (symbol < 256) put(symbol);
      else {
        const length = value(LENGTHS[symbol - 257]);
        const distance = value(DISTANCES[next(distances)]);
        sound(distance <= out.length);
        range(length, () => put(out.at(-distance)));
      }
    }
  };

  for (let last = 0; !last; ) {
    last = bits(1);
    const type = bits(2);
    sound(type < 3);
    if (type) compressed((type > 1 ? dynamicLengths() : fixedLengths()).map(deflateCode));
    else stored();
  }
  sound(size && out.length === end && (bits.at + 7) >> 3 === bytes.length);
  return words(out.slice(-size), 1);
};

// What callers see ------------------------------------------------------------------------------------------

/** Of a view, Node's Buffer among them (its slice() copies nothing), or of an ArrayBuffer, which has no `buffer`. */
const bytesOf = (source) => new Uint8Array(source.buffer ?? source, source.byteOffset, source.byteLength);

/**
 * Open a `.dc` file that is in memory; reads the header, and no tensor yet.
 *
 * @param {Uint8Array | ArrayBuffer} source the whole file; it must not change afterwards
 * @param {{maxBytes?: number}} options most bytes of all decoded tensors together; without it 1024 times the file,
 *   and at least 256 MiB
 * @returns what it says of itself, and functions that decode; see deepcompress.d.ts
 * @throws {FormatError} the file is damaged, or is no `.dc` file
 */
export function open(source, { maxBytes } = {}) {
  const bytes = bytesOf(source);
  const { version, network, data, tensors, total, checkAll } = parse(bytes);
  const names = [...tensors.keys()];

  const find = (name) => {
    const tensor = tensors.get(name);
    if (!tensor) throw new RangeError(`no tensor ${name} among ${names}`);
    return tensor;
  };
  const sourceOf = (name) => {
    let tensor = find(name);
    while (tensor.target) tensor = tensor.target;
    return tensor;
  };
  /** The section of a tensor, checked. */
  const sectionOf = ({ section, crc }) => {
    const most = maxBytes ?? Math.max(1024 * bytes.length, 2 ** 28);
    check(total <= most, 7, `all tensors take ${total} bytes, more than maxBytes = ${most}`);
    if (crc) newCursor(crc, 3).crc(section);
    return section;
  };
  const indices = (tensor) => tensor.indices(sectionOf(tensor), tensor.book(sectionOf));
  const decode = (name) =>
    inTensor(name, () => {
      const tensor = sourceOf(name);
      if (tensor.bits) return tensor.bits(sectionOf(tensor));
      const [entries, symbols] = indices(tensor);
      const found = words(tensor.size, tensor.width);
      for (let i = 0; i < symbols.length; i++) if (symbols[i]) found[i] = entries[symbols[i] - 1];
      return found;
    });

  return {
    version,
    network,
    data,
    names,
    byteLength: bytes.length,
    info(name) {
      const { dtype, shape, size, encoding, target, length, facts } = find(name);
      return { name, dtype, shape: [...shape], size, encoding, storedBytes: length, alias: target?.name, ...facts };
    },
    get: (name) => valuesOf(decode(name), sourceOf(name).type),
    bytes: (name) => words(decode(name).buffer, 1),
    shared: (name) =>
      inTensor(name, () => {
        const tensor = sourceOf(name);
        if (!tensor.k) return null;
        const [entries, found] = indices(tensor);
        return { codebook: valuesOf(entries, tensor.type), indices: found };
      }),
    verify() {
      checkAll();
      names.forEach(decode);
    },
  };
}

/** For update.js alone. */
export const inside = {
  adaptive, bitLength, bytesOf, clamp, crc32, DICTIONARY, DISTANCES, endBits, fixedLengths, floor, inflate, LENGTHS, LIMIT,
  makeTables, matrixOf, newCursor, parse, parseTensor, printable, range, readBook, repeated, sorted, words, wordsOf,
};
