/**
 * Reads `.dc` files: the tensors of one compressed neural network (versions 1 and 2 of the format).
 *
 *     import { open } from "./deepcompress.js";
 *     const file = open(bytes);              // Uint8Array or ArrayBuffer; reads the header
 *     const weight = file.get("fc1.weight"); // decodes one tensor: a typed array
 *
 * Written from docs/format.md alone; the sections in comments and errors are those of that page. One file, no
 * dependency, no eval. It needs a little-endian machine, which every browser and Node.js runs on.
 *
 * Parsing goes before decoding: `parse` reads the header into a record for each tensor, and a record's functions
 * decode its section. Fields that only decoding needs live in the closures of these functions.
 */

/** What is wrong with a file. `section` is the section of the specification that it breaks. */
export class FormatError extends Error {
  constructor(section, message) {
    super(`${message} (format, section ${section})`);
    this.name = "FormatError";
    this.section = section;
  }
}

function check(holds, section, message) {
  if (!holds) throw new FormatError(section, message);
}

/** The result of `work`; errors name the tensor. */
function inTensor(name, work) {
  try {
    return work();
  } catch (error) {
    if (error instanceof FormatError) error.message = `tensor ${name}: ${error.message}`;
    throw error;
  }
}

/** By the number of a dtype (section 3): its name, bytes of an element, and what its values are given as. */
const DTYPES = [
  ["float32", 4, Float32Array],
  ["float16", 2, Float32Array],
  ["bfloat16", 2, Float32Array],
  ["float64", 8, Float64Array],
  ["int8", 1, Int8Array],
  ["uint8", 1, Uint8Array],
  ["int16", 2, Int16Array],
  ["int32", 4, Int32Array],
  ["int64", 8, BigInt64Array],
  ["bool", 1, Uint8Array],
];

/** By the number of an encoding or layout: its name, and what reads its fields in the header. */
const LAYOUTS = [
  ["raw", readRaw],
  ["planes", readPlanes],
  ["coded", readCoded],
  ["alias", readAlias],
  ["constant", readConstant],
  ["adaptive", readAdaptive],
];

/** Elements as bits: a NaN that is copied as a float may lose its payload. `bytes` are copied, so that they align. */
const BITS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array };
const bitsOf = (bytes, width) => new BITS[width](bytes.slice().buffer);

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const product = (numbers) => numbers.reduce((all, number) => all * number, 1);

// Checksums and numbers -------------------------------------------------------------------------------------

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The bits of a float32 that equals the float16 with these bits. */
function widened(half) {
  const sign = (half & 0x8000) << 16;
  let mantissa = half & 1023;
  let exponent = ((half >> 10) & 31) + 112;
  if (exponent === 143) exponent = 255;
  if (exponent === 112) {
    if (!mantissa) return sign >>> 0;
    const shift = Math.clz32(mantissa) - 21; // a subnormal float16 is a normal float32
    exponent = 113 - shift;
    mantissa = (mantissa << shift) & 1023;
  }
  return (sign | (exponent << 23) | (mantissa << 13)) >>> 0;
}

/** The float32 values of float32, float16 or bfloat16 elements (dtypes 0 to 2), given as bits. */
function toFloat32(bits, dtype) {
  const wide = dtype ? Uint32Array.from(bits, dtype > 1 ? (half) => half << 16 : widened) : bits;
  return new Float32Array(wide.buffer);
}

/** A cursor over bytes; `section` is that of the specification which says what stands there. */
class Cursor {
  constructor(bytes, section) {
    this.bytes = bytes;
    this.section = section;
    this.at = 0;
  }

  take(length) {
    check(length <= this.bytes.length - this.at, this.section, "bytes are missing");
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  uint32() {
    return bitsOf(this.take(4), 4)[0];
  }

  /** A varint of at most `limit`. Above 2^53 it is not exact, but more than any limit. */
  varint(limit, field) {
    let value = 0;
    for (let i = 0, byte = 128; byte > 127; i++) {
      byte = this.byte();
      check(i < 9 && (byte || !i), this.section, `${field}: no varint in its shortest form`);
      value += (byte & 127) * 2 ** (7 * i);
    }
    check(value <= limit, this.section, `${field} is ${value}, more than ${limit}`);
    return value;
  }

  text(field) {
    return printable(this.take(this.varint(255, field)), this.section);
  }

  end() {
    check(this.at === this.bytes.length, this.section, "there are bytes too many");
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function printable(bytes, section) {
  let text = "\n";
  try {
    text = UTF8.decode(bytes);
  } catch {
    // no UTF-8: refused below
  }
  check(!/(?! )[\p{C}\p{Z}]/u.test(text), section, "a text is not UTF-8 that prints");
  return text;
}

/**
 * Bits of bytes, from the most significant one of each byte down, or, with `flip` 0, from the least significant one up
 * (as deflate has them). Past the end they are 0, which `endBits` finds.
 */
class Bits {
  constructor(bytes, flip = 7) {
    this.bytes = bytes;
    this.flip = flip;
    this.at = 0;
  }

  take(count) {
    let value = 0;
    for (let i = 0; i < count; i++, this.at++) {
      const bit = (this.bytes[this.at >> 3] >> ((this.at & 7) ^ this.flip)) & 1;
      value |= bit << (this.flip ? count - 1 - i : i);
    }
    return value;
  }
}

/** A stream of `at` bits must end in the last of the bytes, and what is left of that is 0. */
function endBits(bytes, at, section) {
  const left = 8 * bytes.length - at;
  check(left >= 0 && left < 8 && !(bytes.at(-1) & ((1 << left) - 1)), section, "a bit stream has a wrong end");
}

/**
 * The canonical code of these lengths: the next `width` bits give the entry of `table` with symbol × 16 + length.
 * `filled` is the sum of 2^−length: 1 for a complete code.
 */
function codeOf(lengths) {
  const width = lengths.reduce((most, length) => Math.max(most, length), 0);
  const table = new Uint32Array(2 ** width);
  let at = 0;
  for (let length = 1; length <= width; length++) {
    lengths.forEach((each, symbol) => {
      if (each === length) table.fill((symbol << 4) | length, at, (at += 2 ** (width - length)));
    });
  }
  return { width, table, filled: at / table.length };
}

// The header (sections 1 to 4, 9 and 10) --------------------------------------------------------------------

const MAX_HEADER = 2 ** 26;

/** Everything but the sections; the records of the tensors have `start` and `length` of theirs. */
function parse(bytes) {
  const cursor = new Cursor(bytes, 1);
  check(`${cursor.take(3)}` === "137,68,67", 1, "this is no .dc file");
  const version = cursor.byte();
  check(version === 1 || version === 2, 1, `version ${version} is not known`);
  if (version > 1) cursor.section = 9;
  const flags = version > 1 ? cursor.byte() : 2;
  check(flags < 4, 9, `flags ${flags} are not known`);
  const length = cursor.varint(MAX_HEADER, "header length");
  const inflated = flags & 1 && cursor.varint(4096, "inflated length");
  const stored = cursor.take(length);
  const checksums = flags & 2;
  if (checksums) checkCrc(cursor, bytes.subarray(0, cursor.at));
  else {
    check(bytes.length <= 65536, 9, "a file of this size must have checksums");
    checkFile(bytes, 9);
  }
  const header = new Cursor(flags & 1 ? inflate(stored, inflated) : stored, version > 1 ? 9 : 2);
  const found = { version, ...parseHeader(header, version, checksums) };
  for (const tensor of found.tensors) {
    tensor.start = cursor.at;
    inTensor(tensor.name, () => cursor.take(tensor.length));
  }
  cursor.take(4);
  cursor.end();
  return found;
}

function checkCrc(cursor, bytes) {
  check(cursor.uint32() === crc32(bytes), cursor.section, "bytes do not match their checksum");
}

function checkFile(bytes, section) {
  const cursor = new Cursor(bytes, section);
  checkCrc({ section, uint32: () => cursor.uint32() }, cursor.take(bytes.length - 4));
}

function parseHeader(cursor, version, checksums) {
  const network = cursor.text("network");
  const data = cursor.text("data");
  for (let left = cursor.varint(255, "number of extensions"); left; left--) skipExtension(cursor);
  const count = cursor.varint(2 ** 18, "number of tensors");
  const names = version > 1 ? namesByLine(cursor, count) : null;
  const known = new Set();
  const tensors = [];
  let bytes = new Uint8Array();
  for (let i = 0; i < count; i++) {
    bytes = names ? names[i] : nameAfter(cursor, bytes);
    const name = printable(bytes, 3);
    check(name && bytes.length <= 512 && !known.has(name), 3, `name ${i} is empty, longer than 512 bytes, or there twice`);
    known.add(name);
    tensors.push(inTensor(name, () => parseTensor(cursor, { name, version }, tensors, checksums)));
  }
  cursor.end();
  return { network, data, tensors };
}

function skipExtension(cursor) {
  const flag = cursor.byte();
  const name = cursor.text("extension");
  check(!flag, 2, `extension ${name} is required, and this reader does not know it`);
  cursor.take(cursor.varint(MAX_HEADER, "length of an extension"));
}

/** The name of the next tensor of version 1, which shares a start with the name before it. */
function nameAfter(cursor, before) {
  const shared = cursor.varint(before.length, "shared bytes");
  const rest = cursor.take(cursor.varint(512, "length of a name"));
  check(shared === before.length || rest[0] !== before[shared], 3, "a name shares more bytes than it says");
  return Uint8Array.of(...before.subarray(0, shared), ...rest);
}

/** All names of version 2, each ended by a line feed. */
function namesByLine(cursor, count) {
  const names = [];
  while (names.length < count) {
    const end = cursor.bytes.indexOf(10, cursor.at);
    names.push(cursor.take((end < 0 ? Infinity : end) - cursor.at));
    cursor.at++;
  }
  return names;
}

/** Complete the record of a tensor (section 3, or the table of section 9). */
function parseTensor(cursor, tensor, earlier, checksums) {
  const newer = tensor.version > 1;
  const kind = cursor.byte();
  const layout = newer ? cursor.byte() : kind >> 4;
  const rank = newer ? kind >> 4 : cursor.varint(8, "number of dimensions");
  tensor.type = kind & 15;
  tensor.flags = layout >> 4;
  const known = newer ? rank < 9 && (layout < 6 || (layout & 15) === 5) && layout < 64 : layout < 4;
  check(DTYPES[tensor.type] && known, newer ? 9 : 3, `dtype, rank or layout is not known`);
  [tensor.dtype, tensor.width] = DTYPES[tensor.type];
  tensor.shape = Array.from({ length: rank }, () => cursor.varint(2 ** 40, "a dimension"));
  tensor.size = product(tensor.shape);
  check(product(tensor.shape.map((length) => length || 1)) <= 2 ** 40, 3, "more than 2^40 elements");
  tensor.dense = tensor.size * tensor.width;
  let read;
  [tensor.encoding, read] = LAYOUTS[layout & 15];
  read(cursor, tensor, earlier);
  check(tensor.length <= tensor.dense, 3, "the section is longer than the elements");
  if (checksums && !tensor.target) tensor.crc = cursor.uint32();
  return tensor;
}

// Plain tensors (sections 3, 6 and 9): `tensor.bits(section)` gives the bits of all elements ---------------

function readRaw(cursor, tensor) {
  tensor.length = tensor.dense;
  tensor.bits = (section) => checkBool(bitsOf(section, tensor.width), tensor);
}

function readConstant(cursor, tensor) {
  tensor.length = tensor.width;
  check(tensor.size > 1, 9, "a constant has fewer than 2 elements");
  tensor.bits = (section) => {
    const values = checkBool(bitsOf(section, tensor.width), tensor);
    return new BITS[tensor.width](tensor.size).fill(values[0]);
  };
}

function readAlias(cursor, tensor, earlier) {
  const target = (tensor.target = earlier[cursor.varint(earlier.length - 1, "number of the equal tensor")]);
  const same = !target.target && target.type === tensor.type && `${target.shape}` === `${tensor.shape}`;
  check(same, 3, `cannot equal ${target.name}`);
  tensor.length = 0;
}

function readPlanes(cursor, tensor) {
  const { size, width, dense } = tensor;
  tensor.length = cursor.varint(dense, "length of the section");
  tensor.bits = (section) => {
    const bytes = new Uint8Array(dense);
    const planes = new Cursor(section, 6);
    for (let plane = 0; plane < width; plane++) {
      plane256(planes, size).forEach((symbol, i) => (bytes[i * width + plane] = symbol));
    }
    planes.end();
    return checkBool(bitsOf(bytes, width), tensor);
  };
}

/** The symbols of one byte plane: its table stands before its stream, in the same bytes. */
function plane256(cursor, size) {
  const coder = cursor.byte();
  check(coder < 4, 6, `coder ${coder} is not known`);
  const inside = new Cursor(cursor.take(cursor.varint(cursor.bytes.length, "length of a plane")), 6);
  const code = readTable(inside, coder, 256);
  return readStream(code, inside.bytes.subarray(inside.at), size);
}

function checkBool(values, { dtype }) {
  check(dtype !== "bool" || values.every((value) => value < 2), 3, "a bool is neither 0 nor 1");
  return values;
}

// Streams of symbols (section 5) ----------------------------------------------------------------------------

/** What a coder (0 to 3) needs to know to decode symbols below `alphabet`; `tables` is a cursor. */
function readTable(tables, coder, alphabet) {
  if (coder === 1) return { symbol: tables.varint(alphabet - 1, "the constant symbol") };
  if (coder === 2) {
    const width = Math.max(1, 32 - Math.clz32(alphabet - 1));
    return { fixed: alphabet, width, table: Uint32Array.from({ length: 2 ** width }, (_, i) => (i << 4) | width) };
  }
  return coder ? readLengths(tables, alphabet) : {};
}

/** A Huffman code, from the differences of its lengths. */
function readLengths(tables, alphabet) {
  const count = tables.varint(alphabet, "number of code lengths");
  const input = new Bits(tables.bytes.subarray(tables.at));
  const lengths = new Uint8Array(count);
  let length = 0;
  for (let i = 0; i < count; i++) {
    const before = length;
    if (input.take(1)) {
      const step = input.take(1) ? -input.take(1) || -2 : 1;
      length = step === -1 ? input.take(4) : before + (step < 0 ? -1 : 1);
      check(step !== -1 || Math.abs(length - before) > 1, 5, "a code length has a long form");
    }
    check(length >= 0 && length < 16, 5, `a code length is ${length}`);
    lengths[i] = length;
  }
  endBits(tables.take((input.at + 7) >> 3), input.at, 5);
  const code = codeOf(lengths);
  check(code.filled === 1 && length, 5, "the code lengths make no complete code");
  return code;
}

/** `count` symbols of a stream, as a Uint16Array. */
function readStream({ symbol, fixed, width, table }, stream, count) {
  check(count <= 8 * stream.length || !table, 5, "a stream is too short for its symbols");
  check(table || (!stream.length && (symbol >= 0 || !count)), 5, "a stream without a code has bytes or symbols");
  const symbols = new Uint16Array(count);
  if (!table) return symbols.fill(symbol);
  const cursor = new Cursor(stream, 5);
  const lanes = fixed || count < 2 ** 17 ? 0 : 2 ** (31 - Math.clz32(count / 2048));
  const sizes = bitsOf(cursor.take(2 * lanes), 2);
  sizes.forEach((size, lane) => decodeLane(cursor.take(size), width, table, symbols, lane, lanes));
  if (!lanes) decodeLane(cursor.take(stream.length), width, table, symbols, 0, 1);
  cursor.end();
  check(!fixed || symbols.every((each) => each < fixed), 5, "a symbol is beyond the alphabet");
  return symbols;
}

/** Decode a bit stream into every `step`-th symbol from `first` on. */
function decodeLane(bytes, width, table, symbols, first, step) {
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
}

// Codebooks (sections 4 and 10) -----------------------------------------------------------------------------

/**
 * Read the fields of a codebook: `tensor.k` entries that take `tensor.bookBytes` of the section, and `tensor.entries`,
 * which gives their bits from the sections of the file (a function of a tensor).
 */
function readBook(cursor, tensor, earlier) {
  const newer = tensor.version > 1;
  check(tensor.type < 4, 4, `${tensor.dtype} cannot be coded`);
  const k = (tensor.k = cursor.varint(4096, "size of the codebook"));
  cursor.section = newer ? 10 : 4;
  const form = cursor.varint((newer ? 7 : 0) + earlier.length, newer ? "form" : "owner");
  const owner = earlier[form - (newer ? 8 : 1)];
  tensor.bookBytes = 0;
  if (owner) {
    check(owner.bookBytes && owner.type === tensor.type && owner.k === k, cursor.section, `no codebook in ${owner.name}`);
    tensor.entries = owner.entries;
    return;
  }
  check(form < 5 && (!form || !tensor.type), 10, `codebook form ${form} is not for ${tensor.dtype}`);
  const read = form > 1 ? readGrid(cursor, tensor, form) : readEntries(tensor, form);
  tensor.entries = (sections) => checkEntries(read(sections(tensor).subarray(0, tensor.bookBytes)), k, form);
}

function readEntries(tensor, form) {
  const width = form ? 2 : tensor.width;
  tensor.bookBytes = tensor.k * width;
  return (bytes) => (form ? Uint32Array.from(bitsOf(bytes, 2), widened) : bitsOf(bytes, width));
}

function readGrid(cursor, tensor, form) {
  const [lowest, highest] = ["lowest", "highest"].map((field) => {
    const value = cursor.varint(2 ** 16, field);
    return value & 1 ? -(value + 1) / 2 : value / 2;
  });
  const span = highest - lowest + 1;
  const entries = span - (lowest <= 0 && highest >= 0);
  check(span > 0 && entries >= tensor.k, 10, `the grid from ${lowest} to ${highest} is too small`);
  const masked = entries > tensor.k;
  const width = form === 2 ? 4 : 2;
  tensor.bookBytes = width + (masked && (span + 7) >> 3);
  return (bytes) => {
    const scale = toFloat32(bitsOf(bytes.subarray(0, width), width), form - 2)[0];
    check(scale > 0, 10, "the scale is not positive");
    const mask = new Bits(bytes.subarray(width));
    const numbers = Array.from({ length: span }, (_, i) => lowest + i);
    const found = numbers.filter((number) => (masked ? mask.take(1) : number));
    if (masked) endBits(mask.bytes, mask.at, 10);
    return new Uint32Array(Float32Array.from(found, (number) => scale * number).buffer);
  };
}

function checkEntries(entries, k, form) {
  const sound = entries.every((bits) => bits && (!form || (bits & 0x7f800000) !== 0x7f800000));
  check(sound && entries.length === k, form ? 10 : 4, "a codebook has a zero, an infinity, or a wrong size");
  check(new Set(entries).size === k, form ? 10 : 4, "a codebook has an entry twice");
  return entries;
}

// Coded tensors (section 4): `tensor.indices(section, entries)` gives the numbers of the entries -------------

function readCoded(cursor, tensor, earlier) {
  readBook(cursor, tensor, earlier);
  const { size, k, dense, width } = tensor;
  cursor.section = 4;
  const count = cursor.varint(size, "number of weights");
  const bits = cursor.byte();
  const coders = cursor.byte();
  const filler = 2 ** bits - 1;
  const tables = cursor.varint(dense, "length of the tables");
  const weights = cursor.varint(dense, "length of the weight stream");
  const fillers = bits && cursor.varint((size - count) / filler, "number of fillers");
  const offsets = bits && cursor.varint(dense, "length of the offset stream");
  const literal = (coders & 15) === 4;
  check(bits < 13 && coders < 64 && (coders & 15) < 5 && (bits || coders < 16), 4, "offset bits or coders are not known");
  check(literal ? bits && !k && weights === count * width : k || !count, 4, "the weights do not fit the codebook");
  tensor.length = tensor.bookBytes + tables + offsets + weights;
  const parts = { codebook: tensor.bookBytes, tables, offsets, weights };
  tensor.facts = { nonzeros: count, codebookSize: k, offsetBits: bits, fillers, parts };

  const split = (section) => {
    const inside = new Cursor(section.subarray(tensor.bookBytes), 4);
    const codes = new Cursor(inside.take(tables), 4);
    const steps = bits && readTable(codes, coders >> 4, filler + 1);
    const code = literal ? null : readTable(codes, coders & 15, bits ? k : k + 1);
    codes.end();
    const places = bits ? positions(readStream(steps, inside.take(offsets), count + fillers), filler, count, size) : null;
    return { places, code, stream: inside.take(weights) };
  };
  if (literal) tensor.bits = (section) => literals(split(section), size, width);
  else tensor.indices = (section, entries) => ({ entries, symbols: places(split(section), size, count) });
}

/** The places of the weights, in order, from the relative offsets. */
function positions(skips, filler, count, size) {
  const places = new Float64Array(count);
  let [found, at] = [0, 0];
  skips.forEach((skip) => {
    at += skip;
    if (skip !== filler) places[found++] = at++;
  });
  check(found === count && at <= size && skips.at(-1) !== filler, 4, "the offsets do not fit the weights and elements");
  return places;
}

/** For each element 0 or the number of its codebook entry, from 1. */
function places({ places, code, stream }, size, count) {
  if (places) {
    const symbols = new Uint16Array(size);
    readStream(code, stream, count).forEach((symbol, i) => (symbols[places[i]] = symbol + 1));
    return symbols;
  }
  const symbols = readStream(code, stream, size);
  check(symbols.reduce((sum, symbol) => sum + (symbol > 0), 0) === count, 4, "the number of weights is wrong");
  return symbols;
}

function literals({ places, stream }, size, width) {
  const found = new BITS[width](size);
  const values = bitsOf(stream, width);
  check(values.every((bits) => bits), 4, "a literal weight is zero");
  values.forEach((bits, i) => (found[places[i]] = bits));
  return found;
}

// Weights by an adaptive model (section 11) -----------------------------------------------------------------

function readAdaptive(cursor, tensor, earlier) {
  readBook(cursor, tensor, earlier);
  const { shape, flags, size, k, bookBytes } = tensor;
  cursor.section = 9;
  tensor.nonzeros = cursor.varint(size, "number of weights");
  check(k || !tensor.nonzeros, 9, "there are weights, but no codebook");
  const side = flags & 2 && cursor.varint(2 ** 20, "side of a plane");
  const columns = product(shape.slice(shape.length > 1));
  const fits = side > 1 ? columns % side ** 2 === 0 : !(flags & 2);
  check(fits && (!flags || shape.length > 1), 9, "the flags or the side do not fit the shape");
  const weights = cursor.varint(tensor.dense, "length of the stream");
  tensor.length = bookBytes + weights;
  const parts = { codebook: bookBytes, tables: 0, offsets: 0, weights };
  tensor.facts = { nonzeros: tensor.nonzeros, codebookSize: k, offsetBits: 0, fillers: 0, parts };
  const plane = side ? side ** 2 : shape.length > 2 ? product(shape.slice(2)) : columns;
  const matrix = {
    rows: shape.length > 1 ? shape[0] : 1,
    columns,
    plane,
    line: side || (shape.length > 2 ? shape.at(-1) : columns),
    byColumn: flags & 1,
  };
  tensor.indices = (section, found) => {
    const { entries, negative } = sorted(found);
    return { entries, symbols: adaptive(section.subarray(bookBytes), tensor, matrix, negative) };
  };
}

/** Entries with the sign bit in falling magnitude, then the others in rising magnitude, and how many have it. */
function sorted(book) {
  const rising = book.slice().sort();
  const half = rising.BYTES_PER_ELEMENT > 4 ? 1n << 63n : 2 ** (8 * rising.BYTES_PER_ELEMENT - 1);
  const positive = rising.filter((bits) => bits < half);
  const negative = book.length - positive.length;
  rising.copyWithin(0, positive.length);
  rising.subarray(0, negative).reverse();
  rising.set(positive, negative);
  return { entries: rising, negative };
}

const LIMIT = 2880;
const BLOCK = 2 ** 19;
let tables;

/** squash(t) at t + 2880, and stretch(p); made when they are first needed. */
function logistic() {
  tables ??= {
    squash: Uint16Array.from({ length: 2 * LIMIT + 1 }, (_, i) =>
      clamp(Math.round(65536 / (1 + Math.exp((LIMIT - i) / 256))), 1, 65535),
    ),
    stretch: Int16Array.from({ length: 65536 }, (_, p) =>
      clamp(Math.round(256 * Math.log(p / (65536 - p))), -LIMIT, LIMIT),
    ),
  };
  return tables;
}

/** Slots, two numbers each: an adaptive probability of 30 bits, and its count; 0 says that there is no value yet. */
const newSlots = (length, value, count) => new Int32Array(2 * length).map((_, i) => (i & 1 ? count : value));

function learn(slots, index, bit, limit) {
  const [at, count] = [2 * index, slots[2 * index + 1]];
  const error = (bit ? 2 ** 30 - 1 : 0) - slots[at];
  const rate = (65536 / count) | 0;
  // error × rate >> 16 in 32 bits: the halves of the error apart
  slots[at] += Math.imul(error >> 16, rate) + (Math.imul(error & 65535, rate) >>> 16);
  if (count < limit) slots[at + 1] = count + 1;
}

/** Logit of a slot; one without a value first gets this one. */
function logitOf(slots, index, value, count) {
  const at = 2 * index;
  if (!slots[at + 1]) {
    slots[at] = value;
    slots[at + 1] = count;
  }
  return tables.stretch[slots[at] >> 14];
}

/** The arithmetic decoder: `start` a block, `decide` with a probability, and see that the block `ended`. */
function arithmetic() {
  const state = new Uint32Array(1);
  let bytes;
  let at;
  const refill = () => {
    while (state[0] < 2 ** 24 && at < bytes.length) state[0] = state[0] * 256 + bytes[at++];
  };
  return {
    start(block) {
      bytes = block;
      at = 0;
      refill();
    },
    decide(probability) {
      const zero = 65536 - probability;
      const [low, high] = [state[0] & 65535, state[0] >>> 16];
      const bit = low >= zero;
      state[0] = bit ? probability * high + low - zero : zero * high + low;
      if (state[0] < 2 ** 24) refill();
      return bit;
    },
    ended: () => at === bytes.length && !state[0],
  };
}

/** Decides by mixing logits, and learns how far to trust each. `step` is 1 for the rate 32, and 3 for 96. */
function mixer(decide, initial, step) {
  const weights = Float64Array.from(initial);
  return (logits) => {
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += weights[i] * logits[i];
    const probability = tables.squash[Math.floor(clamp(sum / 65536, -LIMIT, LIMIT)) + LIMIT];
    const bit = decide(probability);
    const error = ((bit ? 65535 : 0) - probability) * step;
    for (let i = 0; i < logits.length; i++) weights[i] += (error * logits[i]) >> 17;
    return bit;
  };
}

/** Where the next element stands; `at` is its index. `beside` is the symbol to the left or above, in line and plane. */
function newPlace({ rows, columns, plane, line, byColumn }, symbols) {
  return {
    at: 0,
    row: 0,
    column: 0,
    plane: 0,
    place: 0,
    x: 0,
    next() {
      if (byColumn && ++this.row < rows) {
        this.at += columns;
        return;
      }
      if (++this.x === line) this.x = 0;
      if (++this.place === plane) {
        this.place = 0;
        this.plane++;
      }
      if (++this.column === columns) {
        this.column = this.plane = 0;
        this.row++;
      }
      if (byColumn) this.row = 0;
      this.at = this.row * columns + this.column;
    },
    beside(left, up) {
      const x = this.x - left;
      return x < 0 || x >= line || this.place < up * line ? 0 : symbols[this.at - up * line - left];
    },
  };
}

/** A function that decides whether the next element is a weight, given their share of what is left, of 65536. */
function presence(decide, place, { rows, columns, plane, line, byColumn }, symbols, count) {
  const density = clamp(Number((BigInt(count) << 30n) / BigInt(symbols.length)), 2 ** 15, 2 ** 30 - 2 ** 15);
  const start = clamp(Math.floor(2 ** 26 / Math.min(density, 2 ** 30 - density)), 2, 2000);
  const { stretch, squash } = tables;
  const base = stretch[density >> 14];
  const slots = [rows, columns, columns / plane, plane].map((length) => newSlots(Math.min(length, 65536), density, start));
  slots.push(...[64, 16, 64, 605].map((length) => newSlots(length, 0, 0)));
  const mix = mixer(decide, [-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621], 1);
  const [at, s] = [new Int32Array(8), new Int32Array(10)];

  const around = (otherwise) => {
    const { column, x, place: o } = place;
    let [sum, found] = [0, 0];
    const add = (other) => {
      sum += slots[1][2 * (other & 65535)];
      found++;
    };
    if (x) add(column - 1);
    if (o >= line) add(column - line);
    if (!byColumn && x < line - 1) add(column + 1);
    if (!byColumn && o + line < plane) add(column + line);
    return found ? stretch[Math.floor(sum / found) >> 14] : otherwise;
  };
  const is = (left, up) => (place.beside(left, up) ? 1 : 0);
  const level = (logit, unit, middle, most) => clamp(Math.floor((logit - base) / unit) + middle, 0, most);

  return (share, gap) => {
    const near = is(1, 0) | (is(0, 1) << 1);
    const before = place.row && symbols[place.at - columns] ? 1 : 0;
    at[0] = place.row & 65535;
    at[1] = place.column & 65535;
    at[2] = place.plane & 65535;
    at[3] = place.place & 65535;
    at[4] = near | (is(1, 1) << 2) | (is(-1, 1) << 3) | (is(2, 0) << 4) | (is(0, 2) << 5);
    at[5] = before | (place.plane && symbols[place.at - plane] ? 2 : 0) | (near << 2);
    at[6] = gap && Math.floor(Math.log2(gap)) + 1;
    s[0] = stretch[share];
    for (let i = 0; i < 7; i++) {
      if (i < 4) s[i + (i < 2 ? 1 : 2)] = logitOf(slots[i], at[i]);
      else s[i + 2] = logitOf(slots[i], at[i], squash[s[0] + LIMIT] << 14, start);
    }
    s[3] = around(s[2]);
    at[7] = (11 * level(s[1], 128, 5, 10) + level(s[2], 128, 5, 10)) * 5 + level(s[3], 192, 2, 4);
    s[9] = logitOf(slots[7], at[7], squash[s[0] + LIMIT] << 14, start);
    const bit = mix(s);
    for (let i = 0; i < 8; i++) learn(slots[i], at[i], bit, i < 4 ? 588 : 4000);
    return bit;
  };
}

/** A function that decides which entry of the sorted codebook a weight is, and gives its symbol. */
function entry(decide, place, { rows, columns }, k, negative) {
  const mixed = negative > 0 && negative < k;
  const classes = Uint8Array.from({ length: k + 1 }, (_, symbol) => {
    const j = symbol - 1 - negative;
    if (!symbol) return 0;
    return j < 0 ? 1 + Math.floor((3 * (-1 - j)) / negative) : 4 + Math.floor((3 * j) / (k - negative));
  });
  const sizes = [1, 7, 7, 49, 9, 9];
  const slots = sizes.map((size) => newSlots(k * size, 0, 0));
  const mix = mixer(decide, [-23593, 7209, 3277, 47841, 8847, 7864], 3);
  const [at, s, context] = [new Int32Array(6), new Int32Array(6), new Int32Array(6)];
  // Of each row and column: class of the last weight, magnitude, balance.
  const lines = [rows, columns].map((count) => new Int32Array(3 * Math.min(count, 65536)).map((_, i) => (i % 3 > 1 ? 4 : 0)));

  const decideAt = (middle) => {
    for (let i = 0; i < 6; i++) {
      at[i] = middle * sizes[i] + context[i];
      s[i] = logitOf(slots[i], at[i], i ? slots[0][2 * middle] : 2 ** 29, i ? 2 : 65);
    }
    const bit = mix(s);
    for (let i = 0; i < 6; i++) learn(slots[i], at[i], bit, 250);
    return bit;
  };
  const remember = (line, index, found) => {
    const size = (found - 1) % 3;
    const magnitude = line[index + 1];
    line[index] = found;
    line[index + 1] = magnitude ? Math.min(5, (3 * magnitude + 8 * size + 2) >> 2) : 2 * size + 1;
    line[index + 2] = clamp(line[index + 2] + (found < 4 ? -1 : 1), 0, 8);
  };

  return () => {
    const [row, column] = [3 * (place.row & 65535), 3 * (place.column & 65535)];
    context[1] = lines[0][row];
    context[2] = lines[1][column];
    context[3] = 7 * classes[place.beside(1, 0)] + classes[place.beside(0, 1)];
    let [low, high, number] = [0, k, mixed ? 2 : 1];
    while (high - low > 1) {
      const middle = number > 1 ? negative : (low + high) >> 1;
      context[4] = lines[0][row + number];
      context[5] = lines[1][column + number];
      if (decideAt(middle)) low = middle;
      else high = middle;
      number = 1;
    }
    remember(lines[0], row, classes[low + 1]);
    remember(lines[1], column, classes[low + 1]);
    return low + 1;
  };
}

/** For each element 0 or the number of its entry of the sorted codebook, from 1. */
function adaptive(stream, { size, nonzeros, k }, matrix, negative) {
  const symbols = new Uint16Array(size);
  const cursor = new Cursor(stream, 11);
  if (size) {
    logistic();
    const { start, decide, ended } = arithmetic();
    const place = newPlace(matrix, symbols);
    const isWeight = presence(decide, place, matrix, symbols, nonzeros);
    const symbolOf = entry(decide, place, matrix, k, negative);
    let [left, gap] = [nonzeros, 0];
    for (let i = 0; i < size; ) {
      const block = cursor.take(size > BLOCK ? cursor.varint(stream.length, "length of a block") : stream.length);
      check(block[0] !== 0, 11, "a block starts with 0");
      start(block);
      for (const end = Math.min(size, i + BLOCK); i < end; i++, place.next()) {
        if (!left) i = end - 1;
        else if (left === size - i || isWeight(Math.max(1, Math.floor((left * 65536) / (size - i))), gap)) {
          symbols[place.at] = symbolOf();
          left--;
          gap = 0;
        } else gap++;
      }
      check(ended(), 11, "a block does not end as it must");
    }
  }
  cursor.end();
  return symbols;
}

// Deflate (RFC 1951), for the header of version 2 -----------------------------------------------------------

const DICTIONARY = Uint8Array.from(
  ["self_attn.q_proj.weight\nmlp.down_proj.weight\nlayers.0.embeddings.\ntorchvision:resnet50\x08imagenet\x00dow",
    "nsample.0.weight\nclassifier.6.weight\nfeatures.0.bias\nlayer1.0.conv1.weight\nlayer1.0.bn1.weight\nlayer1.0",
    ".bn1.bias\nlayer1.0.bn1.running_mean\nlayer1.0.bn1.running_var\nlayer1.0.bn1.num_batches_tracked\nlayer2.0.c",
    "onv2.weight\nlayer2.0.bn2.weight\nlayer3.0.shortcut.0.weight\nfc.weight\nfc.bias\n\x08resnet20\x07cifar10",
    "\x00\x0dfashion-mnist\x06digits\x06lenet5\x05mnist\x00\x08conv1.weight\nconv1.bias\nconv2.weight\nconv2.bias",
    "\n\x0dlenet-300-100\x05mnist\x00\x06fc1.weight\nfc1.bias\nfc2.weight\nfc2.bias\nfc3.weight\nfc3.bias\n"].join(""),
  (character) => character.charCodeAt(0),
);


/** Where the codes of lengths and distances start, and how many extra bits they have (3.2.5). */
function extraBits(base, group, count) {
  return Array.from({ length: count }, (_, code) => {
    const extra = Math.max(0, Math.floor(code / group) - 1);
    base += 2 ** extra;
    return [base - 2 ** extra, extra];
  });
}

const LENGTHS = [...extraBits(3, 4, 28), [258, 0]];
const DISTANCES = extraBits(1, 2, 30);
const LENGTHS_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

const sound = (holds) => check(holds, 9, "the deflated header is damaged");

/** Exactly `size` bytes. Past the end of `bytes` there are zeros, which end or fill the output. */
function inflate(bytes, size) {
  const out = [...DICTIONARY];
  const input = new Bits(bytes, 0);
  const put = (byte) => sound(out.push(byte) <= size + DICTIONARY.length);
  for (let last = 0; !last; ) {
    last = input.take(1);
    const type = input.take(2);
    sound(type < 3);
    if (type) inflateCodes(input, out, put, ...(type > 1 ? dynamicCodes(input) : fixedCodes()));
    else inflateStored(input, put);
  }
  sound(input.at > 8 * bytes.length - 8 && input.at <= 8 * bytes.length && out.length === size + DICTIONARY.length);
  return Uint8Array.from(out.slice(DICTIONARY.length));
}

function inflateStored(input, put) {
  input.at = (input.at + 7) & ~7;
  const length = input.take(16);
  sound(input.take(16) === (length ^ 65535));
  for (let i = 0; i < length; i++) put(input.take(8));
}

function inflateCodes(input, out, put, literals, distances) {
  for (let symbol; (symbol = nextSymbol(input, literals)) !== 256; ) {
    if (symbol < 256) put(symbol);
    else {
      const value = ([base, extra] = sound(false)) => base + input.take(extra);
      const length = value(LENGTHS[symbol - 257]);
      const distance = value(DISTANCES[nextSymbol(input, distances)]);
      sound(distance <= out.length);
      for (let i = 0; i < length; i++) put(out.at(-distance));
    }
  }
}

function nextSymbol(input, { width, table }) {
  let entry = 0;
  for (let word = 0, length = 1; (entry & 15) !== length - 1 || length < 2; length++) {
    sound(length <= width);
    word = word * 2 + input.take(1);
    entry = table[word << (width - length)];
  }
  return entry >>> 4;
}

/** A code of deflate: complete, of a single bit, or empty. */
function deflateCode(lengths) {
  const code = codeOf(lengths);
  sound(code.filled === 1 || !code.width || (code.width === 1 && code.filled < 1));
  return code;
}

const fixedCodes = () => [
  deflateCode(Array.from({ length: 288 }, (_, i) => (i < 144 || i > 279 ? 8 : i < 256 ? 9 : 7))),
  deflateCode(new Array(32).fill(5)),
];

function dynamicCodes(input) {
  const [literals, distances, count] = [input.take(5) + 257, input.take(5) + 1, input.take(4) + 4];
  sound(literals < 287 && distances < 31);
  const first = new Array(19).fill(0);
  for (let i = 0; i < count; i++) first[LENGTHS_ORDER[i]] = input.take(3);
  const code = deflateCode(first);
  const lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = nextSymbol(input, code);
    sound(symbol !== 16 || lengths.length);
    const times = symbol < 16 ? 1 : symbol < 17 ? 3 + input.take(2) : symbol < 18 ? 3 + input.take(3) : 11 + input.take(7);
    lengths.push(...new Array(times).fill(symbol < 16 ? symbol : symbol < 17 ? lengths.at(-1) : 0));
  }
  sound(lengths.length === literals + distances && lengths[256]);
  return [deflateCode(lengths.slice(0, literals)), deflateCode(lengths.slice(literals))];
}

// What callers see ------------------------------------------------------------------------------------------

/** A `.dc` file. It keeps the bytes that it was made from, and decodes a tensor each time it is asked for. */
class ModelFile {
  #bytes;
  #tensors;
  #maxBytes;

  constructor(bytes, maxBytes) {
    const { version, network, data, tensors } = parse(bytes);
    this.#bytes = bytes;
    this.#tensors = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    this.#maxBytes = maxBytes;
    Object.assign(this, { version, network, data, byteLength: bytes.length, names: [...this.#tensors.keys()] });
    this.decodedBytes = tensors.reduce((sum, { target, dense }) => sum + (target ? 0 : dense), 0);
  }

  /** What the header says of a tensor: dtype, shape, and how it is stored. */
  info(name) {
    const { dtype, shape, size, encoding, target, length, facts } = this.#find(name);
    return { name, dtype, shape, size, encoding, storedBytes: length, alias: target?.name, ...facts };
  }

  /** The values of a tensor, row by row: Float32Array for float32, float16 and bfloat16, BigInt64Array for int64. */
  get(name) {
    const { type } = this.#find(name);
    const bits = this.#decode(name);
    return type < 3 ? toFloat32(bits, type) : new DTYPES[type][2](bits.buffer);
  }

  /** The bytes of a tensor's elements, little-endian. */
  bytes(name) {
    return new Uint8Array(this.#decode(name).buffer);
  }

  /** The shared values of a coded tensor and, for each element, 0 or the number of its value, from 1; otherwise null. */
  shared(name) {
    return inTensor(name, () => {
      const { indices, entries, type } = this.#source(name);
      if (!indices) return null;
      const found = indices(this.#section(this.#source(name)), entries((tensor) => this.#section(tensor)));
      const codebook = type < 3 ? toFloat32(found.entries, type) : new Float64Array(found.entries.buffer);
      return { codebook, indices: found.symbols };
    });
  }

  /** Check the checksum of the whole file, and decode every tensor. */
  verify() {
    checkFile(this.#bytes, this.version > 1 ? 9 : 1);
    for (const name of this.names) this.#decode(name);
  }

  #find(name) {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new RangeError(`the file has no tensor ${name}; it has ${this.names.join(", ") || "none"}`);
    return tensor;
  }

  #source(name) {
    const tensor = this.#find(name);
    return tensor.target ?? tensor;
  }

  #decode(name) {
    const tensor = this.#source(name);
    return inTensor(name, () => {
      const section = this.#section(tensor);
      if (tensor.bits) return tensor.bits(section);
      const { entries, symbols } = tensor.indices(section, tensor.entries((owner) => this.#section(owner)));
      const found = new BITS[tensor.width](tensor.size);
      for (let i = 0; i < symbols.length; i++) if (symbols[i]) found[i] = entries[symbols[i] - 1];
      return found;
    });
  }

  /** The bytes of a tensor's section, checked; an error if all tensors together are too large to be decoded. */
  #section({ start, length, crc }) {
    const [total, limit] = [this.decodedBytes, this.#maxBytes];
    check(total <= limit, 7, `all tensors take ${total} bytes, more than maxBytes = ${limit}`);
    const section = this.#bytes.subarray(start, start + length);
    check(crc === undefined || crc === crc32(section), 1, "the section does not match its checksum");
    return section;
  }
}

/**
 * Open a `.dc` file that is in memory; reads the header, and no tensor yet.
 *
 * @param {Uint8Array | ArrayBuffer} source the whole file; it must not change afterwards
 * @param {{maxBytes?: number}} options most bytes of all decoded tensors together; without it 1024 times the file,
 *   and at least 256 MiB
 * @throws {FormatError} the file is damaged, or is no `.dc` file
 */
export function open(source, { maxBytes } = {}) {
  const view = ArrayBuffer.isView(source); // of Node's Buffer, too, whose slice() copies nothing
  const bytes = view ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength) : new Uint8Array(source);
  return new ModelFile(bytes, maxBytes ?? Math.max(1024 * bytes.length, 2 ** 28));
}
