/**
 * Reads `.dc` files: the tensors of one compressed neural network (versions 1 and 2 of the format).
 *
 *     import { open } from "./deepcompress.js";
 *     const file = open(bytes);              // Uint8Array or ArrayBuffer; reads the header
 *     const weight = file.get("fc1.weight"); // decodes one tensor: a typed array
 *
 * Written from docs/format.md alone; "section" below and in errors is a section of that page. One file, no
 * dependency, no eval. It needs a little-endian machine, which every browser and Node.js runs on.
 */

/** What is wrong with a file. `section` is the section of the specification that it breaks. */
export class FormatError extends Error {
  constructor(section, message) {
    super(`${message} (format, section ${section})`);
    this.name = "FormatError";
    this.section = section;
  }
}

const fail = (section, message) => {
  throw new FormatError(section, message);
};
const check = (holds, section, message) => holds || fail(section, message);

const RAW = 0;
const PLANES = 1;
const CODED = 2;
const ALIAS = 3;
const CONSTANT = 4;
const ADAPTIVE = 5;
const LITERAL = 4; // a coder
const ENCODINGS = ["raw", "planes", "coded", "alias", "constant", "adaptive"];

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
const LAST_FLOAT = 3;

/** Arrays of the bits of elements, by bytes of an element: a float copied as a float may lose the payload of a NaN. */
const BITS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array };

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

const uint32 = (bytes, at) => (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;

/** The bits of a float32 that equals the float16 with these bits. */
function widened(half) {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 31;
  const mantissa = half & 1023;
  if (exponent === 31) return (sign | 0x7f800000 | (mantissa << 13)) >>> 0;
  if (exponent) return (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0;
  if (!mantissa) return sign >>> 0;
  const shift = Math.clz32(mantissa) - 21; // a subnormal float16 is a normal float32
  return (sign | ((113 - shift) << 23) | (((mantissa << shift) & 1023) << 13)) >>> 0;
}

/** The float32 values of float32, float16 or bfloat16 elements, given as bits. */
function toFloat32(bits, dtype) {
  if (dtype === 0) return new Float32Array(bits.buffer, bits.byteOffset, bits.length);
  const wide = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) wide[i] = dtype === 1 ? widened(bits[i]) : bits[i] << 16;
  return new Float32Array(wide.buffer);
}

/** A cursor over bytes; `section` and `what` say in errors what is read. */
class Cursor {
  constructor(bytes, section, what) {
    this.bytes = bytes;
    this.section = section;
    this.what = what;
    this.at = 0;
  }

  take(length) {
    check(length <= this.bytes.length - this.at, this.section, `${this.what} ends too early`);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  /** A varint of at most `limit`; beyond 2^53 it is not exact, and refused by every limit. */
  varint(limit, field) {
    let value = 0;
    for (let i = 0; ; i++) {
      const byte = this.byte();
      check(i < 9 && (byte || !i), this.section, `${this.what}: ${field} is no varint in its shortest form`);
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) break;
    }
    check(value <= limit, this.section, `${this.what}: ${field} is ${value}, more than ${limit}`);
    return value;
  }

  text(limit, field) {
    return printable(this.take(this.varint(limit, `length of ${field}`)), this.section, field);
  }

  end() {
    check(this.at === this.bytes.length, this.section, `${this.what} has ${this.bytes.length - this.at} bytes too many`);
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const HIDDEN = /(?! )[\p{C}\p{Z}]/u;

function printable(bytes, section, field) {
  let text;
  try {
    text = UTF8.decode(bytes);
  } catch {
    fail(section, `${field} is not UTF-8`);
  }
  check(!HIDDEN.test(text), section, `${field} has characters that do not print`);
  return text;
}

// The header (sections 1 to 4, 9 and 10) --------------------------------------------------------------------

const MAX_HEADER = 2 ** 26;

/** Parse the file around the sections; `tensors` are the records of the header with `start` and `length` in the file. */
function parse(bytes) {
  const file = new Cursor(bytes, 1, "the file");
  check(bytes.length >= 4 && bytes[0] === 0x89 && bytes[1] === 0x44 && bytes[2] === 0x43, 1, "this is no .dc file");
  const version = bytes[3];
  check(version === 1 || version === 2, 1, `version ${version} is not known; this reader knows 1 and 2`);
  file.at = 4;
  const flags = version === 1 ? 2 : file.byte();
  if (version === 2) file.section = 9;
  check(flags < 4, 9, `flags ${flags} are not known`);
  const stored = file.varint(MAX_HEADER, "length of the header");
  const inflated = flags & 1 && file.varint(4096, "inflated length of the header");
  let header = file.take(stored);
  if (flags & 2) {
    const computed = crc32(bytes.subarray(0, file.at));
    check(uint32(file.take(4), 0) === computed, file.section, "the header does not match its checksum");
  } else {
    check(bytes.length <= 65536, 9, `a file of ${bytes.length} bytes must have checksums`);
    checkFile(bytes, 9);
  }
  if (flags & 1) header = inflate(header, inflated);
  const cursor = new Cursor(header, version === 1 ? 2 : 9, "the header");
  const found = { version, checksums: Boolean(flags & 2), ...parseHeader(cursor, version, flags & 2) };
  for (const tensor of found.tensors) {
    tensor.start = file.at;
    file.take(tensor.length);
  }
  check(bytes.length - file.at === 4, file.section, `the file has ${bytes.length - file.at - 4} bytes too many`);
  return found;
}

function checkFile(bytes, section) {
  const end = bytes.length - 4;
  check(uint32(bytes, end) === crc32(bytes.subarray(0, end)), section, "the file does not match its checksum");
}

function parseHeader(cursor, version, checksums) {
  const network = cursor.text(255, "the network's name");
  const data = cursor.text(255, "the data's name");
  cursor.section = 2;
  for (let left = cursor.varint(255, "number of extensions"); left; left--) skipExtension(cursor);
  const count = cursor.varint(2 ** 18, "number of tensors");
  const tensors = [];
  const names = new Set();
  const start = version === 1 ? tensor1 : tensor2;
  const listed = version === 1 ? null : readNames(cursor, count, names);
  let before = new Uint8Array(0);
  for (let i = 0; i < count; i++) {
    cursor.section = 3;
    if (version === 1) before = readName(cursor, before, i);
    const name = listed ? listed[i] : addName(before, names);
    cursor.what = `the header of tensor ${name}`;
    tensors.push(start(cursor, { name, index: i }, tensors, checksums));
  }
  cursor.what = "the header";
  cursor.end();
  return { network, data, tensors };
}

function skipExtension(cursor) {
  const flag = cursor.byte();
  const name = cursor.text(255, "the name of an extension");
  check(flag < 2, 2, `extension ${name} has flag ${flag}, not 0 or 1`);
  check(!flag, 2, `the file needs extension ${name}, which this reader does not know`);
  cursor.take(cursor.varint(MAX_HEADER, "length of an extension"));
}

/** The bytes of the next name of version 1, which shares a start with the name before it. */
function readName(cursor, before, index) {
  const shared = cursor.varint(before.length, `shared bytes of name ${index}`);
  const rest = cursor.take(cursor.varint(512, `length of name ${index}`));
  check(shared === before.length || rest[0] !== before[shared], 3, `name ${index} shares more bytes than it says`);
  const name = new Uint8Array(shared + rest.length);
  name.set(before.subarray(0, shared));
  name.set(rest, shared);
  return name;
}

/** All names of version 2, each ended by a line feed. */
function readNames(cursor, count, names) {
  const found = [];
  for (let i = 0; i < count; i++) {
    const end = cursor.bytes.indexOf(10, cursor.at);
    check(end >= 0, 9, `name ${i} has no end`);
    found.push(addName(cursor.take(end - cursor.at), names));
    cursor.at++;
  }
  return found;
}

function addName(bytes, names) {
  check(bytes.length > 0 && bytes.length <= 512, 3, `a name has ${bytes.length} bytes, not 1 to 512`);
  const name = printable(bytes, 3, "a tensor's name");
  check(!names.has(name), 3, `name ${name} occurs twice`);
  names.add(name);
  return name;
}

function tensor1(cursor, tensor, earlier) {
  const kind = cursor.byte();
  setType(tensor, kind & 15);
  tensor.encoding = kind >> 4;
  check(tensor.encoding <= ALIAS, 3, `tensor ${tensor.name} has encoding ${tensor.encoding}, which is not known`);
  setShape(cursor, tensor, cursor.varint(8, "number of dimensions"));
  if (tensor.encoding === CODED) readCoded(cursor, tensor, earlier, readOwner);
  else readPlain(cursor, tensor, earlier);
  return finish(cursor, tensor, true);
}

function tensor2(cursor, tensor, earlier, checksums) {
  const kind = cursor.byte();
  const layout = cursor.byte();
  setType(tensor, kind & 15);
  tensor.encoding = layout & 15;
  tensor.flags = layout >> 4;
  const known = tensor.encoding <= ADAPTIVE && tensor.flags <= (tensor.encoding === ADAPTIVE ? 3 : 0);
  check(known, 9, `tensor ${tensor.name} has layout ${layout}, which is not known`);
  check(kind >> 4 <= 8, 9, `tensor ${tensor.name} has ${kind >> 4} dimensions, more than 8`);
  setShape(cursor, tensor, kind >> 4);
  cursor.section = 9;
  if (tensor.encoding === CODED) readCoded(cursor, tensor, earlier, readForm);
  else if (tensor.encoding === ADAPTIVE) readAdaptive(cursor, tensor, earlier);
  else readPlain(cursor, tensor, earlier);
  return finish(cursor, tensor, checksums);
}

function setType(tensor, dtype) {
  check(dtype < DTYPES.length, 3, `tensor ${tensor.name} has dtype ${dtype}, which is not known`);
  tensor.type = dtype;
  [tensor.dtype, tensor.itemsize] = DTYPES[dtype];
}

function setShape(cursor, tensor, rank) {
  const shape = (tensor.shape = []);
  let product = 1;
  while (shape.length < rank) {
    const length = cursor.varint(2 ** 40, "a dimension");
    shape.push(length);
    product *= length || 1;
    check(product <= 2 ** 40, 3, `tensor ${tensor.name} has more than 2^40 elements`);
  }
  tensor.size = shape.includes(0) ? 0 : product;
}

function readPlain(cursor, tensor, earlier) {
  const dense = tensor.size * tensor.itemsize;
  tensor.length = dense;
  if (tensor.encoding === PLANES) tensor.length = cursor.varint(dense, "length of the section");
  if (tensor.encoding === CONSTANT) {
    tensor.length = tensor.itemsize;
    check(tensor.size >= 2, 9, `tensor ${tensor.name} is constant, but has fewer than 2 elements`);
  }
  if (tensor.encoding !== ALIAS) return;
  tensor.length = 0;
  tensor.target = earlier[cursor.varint(tensor.index - 1, "number of the tensor that it equals")];
  const { encoding, type, shape } = tensor.target;
  const same = encoding !== ALIAS && type === tensor.type && `${shape}` === `${tensor.shape}`;
  check(same, 3, `tensor ${tensor.name} is an alias of ${tensor.target.name}, which it cannot equal`);
}

function readCoded(cursor, tensor, earlier, readBook) {
  startCoded(cursor, tensor, earlier, readBook);
  cursor.section = 4;
  const { size, itemsize } = tensor;
  const limit = size * itemsize;
  const bits = (tensor.offsetBits = cursor.byte());
  const coders = cursor.byte();
  [tensor.offsetCoder, tensor.weightCoder] = [coders >> 4, coders & 15];
  check(bits <= 12, 4, `tensor ${tensor.name} has offsets of ${bits} bits, more than 12`);
  tensor.tables = cursor.varint(limit, "length of the tables");
  tensor.weights = cursor.varint(limit, "length of the weight stream");
  tensor.fillers = bits ? cursor.varint((size - tensor.nonzeros) / (2 ** bits - 1), "number of fillers") : 0;
  tensor.offsets = bits ? cursor.varint(limit, "length of the offset stream") : 0;
  tensor.length = tensor.bookBytes + tensor.tables + tensor.weights + tensor.offsets;
  checkCoders(tensor);
}

function checkCoders({ name, k, nonzeros, itemsize, offsetBits, offsetCoder, weightCoder, weights }) {
  check(offsetCoder < LITERAL && weightCoder <= LITERAL, 5, `tensor ${name} has a coder that is not known`);
  check(offsetBits || !offsetCoder, 4, `tensor ${name} has no offsets, but a coder for them`);
  if (weightCoder !== LITERAL) return check(k || !nonzeros, 4, `tensor ${name} has weights, but no codebook`);
  const sound = offsetBits && !k && weights === nonzeros * itemsize;
  return check(sound, 4, `tensor ${name} has literal weights that do not fit its other fields`);
}

function readAdaptive(cursor, tensor, earlier) {
  startCoded(cursor, tensor, earlier, readForm);
  cursor.section = 9;
  const { name, shape, size, flags, nonzeros, k, bookBytes } = tensor;
  check(!flags || shape.length > 1, 9, `tensor ${name} has flags ${flags}, but fewer than 2 dimensions`);
  if (flags & 2) tensor.side = readSide(cursor, tensor);
  tensor.weights = cursor.varint(size * tensor.itemsize, "length of the stream");
  tensor.length = bookBytes + tensor.weights;
  check(k || !nonzeros, 9, `tensor ${name} has weights, but no codebook`);
}

function readSide(cursor, { name, shape }) {
  const columns = shape.slice(1).reduce((product, length) => product * length, 1);
  const side = cursor.varint(2 ** 20, "side of a plane");
  check(side > 1 && columns % side ** 2 === 0, 11, `tensor ${name} has ${columns} columns: no planes of side ${side}`);
  return side;
}

/** What layouts 2 and 5 start with: the codebook and the number of weights. */
function startCoded(cursor, tensor, earlier, readBook) {
  check(tensor.type <= LAST_FLOAT, 4, `tensor ${tensor.name} is ${tensor.dtype}, which cannot be coded`);
  tensor.k = cursor.varint(4096, "size of the codebook");
  readBook(cursor, tensor, earlier);
  cursor.section = 4;
  tensor.nonzeros = cursor.varint(tensor.size, "number of weights");
}

function readOwner(cursor, tensor, earlier) {
  const owner = cursor.varint(tensor.index, "owner of the codebook");
  tensor.form = 0;
  tensor.bookBytes = owner ? 0 : tensor.k * tensor.itemsize;
  if (owner) shareBook(tensor, earlier[owner - 1], 4);
}

function readForm(cursor, tensor, earlier) {
  cursor.section = 10;
  const form = (tensor.form = cursor.varint(7 + tensor.index, "form of the codebook"));
  check(form < 5 || form > 7, 10, `tensor ${tensor.name} has a codebook of form ${form}, which is not known`);
  check(!form || form > 7 || !tensor.type, 10, `tensor ${tensor.name}: form ${form} is for float32 only`);
  tensor.bookBytes = 0;
  if (form > 7) shareBook(tensor, earlier[form - 8], 10);
  else if (form > 1) readGrid(cursor, tensor);
  else tensor.bookBytes = tensor.k * (form ? 2 : tensor.itemsize);
}

function shareBook(tensor, owner, section) {
  const same = owner.bookBytes !== undefined && !owner.owner && owner.type === tensor.type && owner.k === tensor.k;
  check(same, section, `tensor ${tensor.name} cannot have the codebook of ${owner.name}`);
  tensor.owner = owner;
}

function readGrid(cursor, tensor) {
  const signed = (field) => {
    const value = cursor.varint(2 ** 16, field);
    return value % 2 ? -(value + 1) / 2 : value / 2;
  };
  const lowest = (tensor.lowest = signed("lowest"));
  const highest = (tensor.highest = signed("highest"));
  check(lowest <= highest, 10, `tensor ${tensor.name} has a grid from ${lowest} to ${highest}`);
  const span = highest - lowest + 1;
  const entries = span - (lowest <= 0 && highest >= 0 ? 1 : 0);
  check(entries >= tensor.k, 10, `tensor ${tensor.name} has a grid of ${entries} entries, fewer than ${tensor.k}`);
  tensor.masked = entries > tensor.k;
  tensor.bookBytes = (tensor.form === 2 ? 4 : 2) + (tensor.masked ? Math.ceil(span / 8) : 0);
}

function finish(cursor, tensor, checksums) {
  const { name, length, size, itemsize } = tensor;
  check(length <= size * itemsize, 3, `tensor ${name} has a section of ${length} bytes, more than its elements`);
  if (checksums && tensor.encoding !== ALIAS) tensor.crc = uint32(cursor.take(4), 0);
  return tensor;
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

/** Where codes of lengths (RFC 1951, 3.2.5) start, and how many extra bits they have. */
function extraBits(first, group) {
  const [bases, extras] = [[], []];
  for (let code = 0, base = first; code < 30; code++) {
    const extra = Math.max(0, Math.floor(code / group) - 1);
    bases.push(base);
    extras.push(extra);
    base += 2 ** extra;
  }
  return { bases, extras };
}

const DISTANCES = extraBits(1, 2);
const LENGTHS = extraBits(3, 4);
LENGTHS.bases[28] = 258;
LENGTHS.extras[28] = 0;
const LENGTHS_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** Bits from the least significant one, as deflate has them. */
class DeflateBits {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0; // in bits
  }

  bits(count) {
    let value = 0;
    for (let i = 0; i < count; i++, this.at++) {
      check(this.at < 8 * this.bytes.length, 9, "the deflated header ends too early");
      value |= ((this.bytes[this.at >> 3] >> (this.at & 7)) & 1) << i;
    }
    return value;
  }

  symbol({ counts, symbols }) {
    for (let length = 1, code = 0, first = 0, index = 0; length < 16; length++) {
      code |= this.bits(1);
      if (code - counts[length] < first) return symbols[index + code - first];
      index += counts[length];
      first = (first + counts[length]) << 1;
      code <<= 1;
    }
    return fail(9, "the deflated header has a code that does not occur");
  }
}

/** A code from its lengths: how many codes have each, and the symbols in order. Only a code of one bit may be alone. */
function deflateCode(lengths) {
  const counts = new Array(16).fill(0);
  for (const length of lengths) counts[length]++;
  let left = 1;
  for (let length = 1; length < 16; length++) {
    left = 2 * left - counts[length];
    check(left >= 0, 9, "the deflated header has a code with too many words");
  }
  const used = lengths.length - counts[0];
  check(!left || !used || (used === 1 && counts[1] === 1), 9, "the deflated header has a code with too few words");
  counts[0] = 0;
  const symbols = [...lengths.keys()].filter((symbol) => lengths[symbol]);
  symbols.sort((a, b) => lengths[a] - lengths[b] || a - b);
  return { counts, symbols };
}

function inflate(bytes, size) {
  const out = new Uint8Array(DICTIONARY.length + size);
  out.set(DICTIONARY);
  const state = { out, at: DICTIONARY.length, input: new DeflateBits(bytes) };
  let last;
  do {
    last = state.input.bits(1);
    const type = state.input.bits(2);
    check(type < 3, 9, "the deflated header has a block of unknown type");
    if (type) inflateCodes(state, ...(type === 1 ? fixedCodes() : dynamicCodes(state.input)));
    else inflateStored(state);
  } while (!last);
  check(state.input.at > 8 * bytes.length - 8, 9, "the deflated header has bytes after its end");
  check(state.at === out.length, 9, "the header inflates to fewer bytes than it says");
  return out.subarray(DICTIONARY.length);
}

function put(state, byte) {
  check(state.at < state.out.length, 9, "the header inflates to more bytes than it says");
  state.out[state.at++] = byte;
}

function inflateStored(state) {
  const { input } = state;
  input.at = (input.at + 7) & ~7;
  const length = input.bits(16);
  check(input.bits(16) === (length ^ 0xffff), 9, "the deflated header has a stored block of two lengths");
  for (let i = 0; i < length; i++) put(state, input.bits(8));
}

function fixedCodes() {
  const length = (symbol) => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8);
  return [deflateCode(Array.from({ length: 288 }, (_, i) => length(i))), deflateCode(new Array(32).fill(5))];
}

function dynamicCodes(input) {
  const [literals, distances, count] = [input.bits(5) + 257, input.bits(5) + 1, input.bits(4) + 4];
  check(literals < 287 && distances < 31, 9, "the deflated header has a block with too many codes");
  const first = new Array(19).fill(0);
  for (let i = 0; i < count; i++) first[LENGTHS_ORDER[i]] = input.bits(3);
  const code = deflateCode(first);
  const lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = input.symbol(code);
    if (symbol < 16) lengths.push(symbol);
    else {
      check(symbol > 16 || lengths.length, 9, "the deflated header repeats a length before the first");
      const times = symbol === 16 ? 3 + input.bits(2) : symbol === 17 ? 3 + input.bits(3) : 11 + input.bits(7);
      lengths.push(...new Array(times).fill(symbol === 16 ? lengths.at(-1) : 0));
    }
  }
  check(lengths.length === literals + distances && lengths[256], 9, "the deflated header has wrong code lengths");
  return [deflateCode(lengths.slice(0, literals)), deflateCode(lengths.slice(literals))];
}

function inflateCodes(state, literals, distances) {
  const { input, out } = state;
  for (;;) {
    const symbol = input.symbol(literals);
    if (symbol === 256) return;
    if (symbol < 256) put(state, symbol);
    else {
      check(symbol < 286, 9, "the deflated header has a length that does not exist");
      const length = LENGTHS.bases[symbol - 257] + input.bits(LENGTHS.extras[symbol - 257]);
      const code = input.symbol(distances);
      check(code < 30, 9, "the deflated header has a distance that does not exist");
      const distance = DISTANCES.bases[code] + input.bits(DISTANCES.extras[code]);
      check(distance <= state.at, 9, "the deflated header looks back before its start");
      for (let i = 0; i < length; i++) put(state, out[state.at - distance]);
    }
  }
}

// Streams of symbols (section 5) ----------------------------------------------------------------------------

/** A bit stream that starts at the most significant bit; past its end it reads zeros, which `endBits` finds. */
class Bits {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0; // in bits
  }

  bits(count) {
    let value = 0;
    for (let i = 0; i < count; i++, this.at++) value = (value << 1) | ((this.bytes[this.at >> 3] >> (7 - (this.at & 7))) & 1);
    return value;
  }
}

/** A bit stream must end in its last byte, and what is left of that is 0. */
function endBits(bytes, at, section, what) {
  const padding = 8 * bytes.length - at;
  check(padding >= 0, section, `${what} ends too early`);
  check(padding < 8 && !(bytes.at(-1) & ((1 << padding) - 1)), section, `${what} has bits too many`);
}

/** Read code lengths, and make the table that a decoder looks up `width` bits in: symbol × 16 + length. */
function readCode(cursor, alphabet) {
  const count = cursor.varint(alphabet, "number of code lengths");
  const input = new Bits(cursor.bytes.subarray(cursor.at));
  const lengths = new Uint8Array(count);
  let length = 0;
  let filled = 0;
  for (let i = 0; i < count; i++) {
    length = nextLength(input, length, cursor);
    lengths[i] = length;
    filled += length && 2 ** -length;
  }
  const used = cursor.take(Math.ceil(input.at / 8));
  endBits(used, input.at, cursor.section, `the code lengths of ${cursor.what}`);
  check(filled === 1 && length, cursor.section, `${cursor.what}: the code lengths make no complete code`);
  const width = lengths.reduce((most, each) => Math.max(most, each), 0);
  return { width, table: codeTable(lengths, width) };
}

function nextLength(input, before, cursor) {
  if (!input.bits(1)) return before;
  const step = input.bits(1) ? (input.bits(1) ? 0 : -1) : 1;
  const length = step ? before + step : input.bits(4);
  check(length >= 0 && length < 16, cursor.section, `${cursor.what} has a code length of ${length}`);
  check(step || Math.abs(length - before) > 1, cursor.section, `${cursor.what} has a code length in a long form`);
  check(input.at <= 8 * input.bytes.length, cursor.section, `${cursor.what} ends too early`);
  return length;
}

function codeTable(lengths, width) {
  const table = new Uint32Array(2 ** width);
  let at = 0;
  for (let length = 1; length <= width; length++) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue;
      table.fill((symbol << 4) | length, at, (at += 2 ** (width - length)));
    }
  }
  return table;
}

/**
 * Decode `count` symbols below `alphabet` into a Uint16Array.
 * `tables` is a cursor over the tables, and `stream` the bytes of the stream.
 */
function readSymbols(coder, tables, stream, count, alphabet, what) {
  if (coder < 2) {
    check(!stream.length && (coder || !count), 5, `${what} has ${stream.length} bytes for ${count} symbols`);
    if (!coder) return new Uint16Array(0);
    const symbol = tables.varint(alphabet - 1, "the constant symbol");
    return new Uint16Array(count).fill(symbol);
  }
  const code = coder === 3 ? readCode(tables, alphabet) : fixedCode(alphabet);
  check(count <= 8 * stream.length, 5, `${what} has ${stream.length} bytes, too few for ${count} symbols`);
  const symbols = new Uint16Array(count);
  const apart = coder === 3 && count >= 2 ** 17;
  for (const lane of apart ? lanes(stream, count, what) : [{ first: 0, step: 1, bytes: stream }]) {
    decodeLane(lane, code, symbols, what);
  }
  check(coder === 3 || symbols.every((symbol) => symbol < alphabet), 5, `${what} has a symbol beyond ${alphabet - 1}`);
  return symbols;
}

/** Symbols of equal width, as the code that they are. */
function fixedCode(alphabet) {
  const width = Math.max(1, 32 - Math.clz32(alphabet - 1));
  return { width, table: Uint32Array.from({ length: 2 ** width }, (_, symbol) => (symbol << 4) | width) };
}

/** The lanes of a Huffman stream: where each starts, how far its symbols are apart, and its bytes. */
function lanes(stream, count, what) {
  const step = 2 ** (31 - Math.clz32(Math.floor(count / 2048)));
  const cursor = new Cursor(stream, 5, what);
  const sizes = cursor.take(2 * step);
  const found = [];
  for (let first = 0; first < step; first++) {
    found.push({ first, step, bytes: cursor.take(sizes[2 * first] | (sizes[2 * first + 1] << 8)) });
  }
  cursor.end();
  return found;
}

function decodeLane({ first, step, bytes }, { width, table }, symbols, what) {
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
  endBits(bytes, 8 * at - held, 5, what);
}

// Tensors (sections 3, 4, 6, 9 and 10) ----------------------------------------------------------------------

const arrayOf = (bytes, itemsize) => new BITS[itemsize](bytes.slice().buffer);

/** The bits of all elements, from the tensor's section. */
function elements(tensor, section, book) {
  const { encoding, itemsize, size, name, dtype } = tensor;
  if (encoding === CODED || encoding === ADAPTIVE) return shared(tensor, section, book);
  const values = encoding === PLANES ? planes(tensor, section) : arrayOf(section, itemsize);
  check(dtype !== "bool" || values.every((value) => value < 2), 3, `tensor ${name} is bool, with other bytes than 0 and 1`);
  return encoding === CONSTANT ? new BITS[itemsize](size).fill(values[0]) : values;
}

function planes({ name, size, itemsize }, section) {
  const bytes = new Uint8Array(size * itemsize);
  const cursor = new Cursor(section, 6, `tensor ${name}`);
  for (let plane = 0; plane < itemsize; plane++) {
    const what = `byte plane ${plane} of tensor ${name}`;
    const coder = cursor.byte();
    check(coder < LITERAL, 6, `${what} has coder ${coder}, which is not known`);
    const inside = new Cursor(cursor.take(cursor.varint(section.length, `length of ${what}`)), 6, what);
    const symbols = planeSymbols(coder, inside, size, what);
    for (let i = 0; i < size; i++) bytes[i * itemsize + plane] = symbols[i];
  }
  cursor.end();
  return new BITS[itemsize](bytes.buffer);
}

/** A plane's table stands before its stream in the same bytes, so that it is measured first. */
function planeSymbols(coder, inside, size, what) {
  const tables = new Cursor(inside.bytes, 6, what);
  if (coder === 1) tables.varint(255, "the constant symbol");
  if (coder === 3) readCode(tables, 256);
  return readSymbols(coder, inside, inside.bytes.subarray(tables.at), size, 256, what);
}

/** The codebook, as bits; that of an adaptive tensor in the order of section 11. */
function codebook(tensor, section) {
  const { k, form, itemsize, name } = tensor;
  const bytes = section.subarray(0, tensor.bookBytes);
  let book = form > 1 ? gridBook(tensor, bytes) : arrayOf(bytes, form ? 2 : itemsize);
  if (form === 1) book = Uint32Array.from(book, widened);
  const finite = (bits) => (bits & 0x7f800000) !== 0x7f800000;
  check(!form || book.every(finite), 10, `the codebook of tensor ${name} has an entry that is not finite`);
  check(new Set(book).size === k, 4, `the codebook of tensor ${name} has an entry twice`);
  check(book.every((bits) => bits), 4, `the codebook of tensor ${name} has a zero`);
  return book;
}

function gridBook({ k, form, lowest, highest, masked, name }, bytes) {
  const width = form === 2 ? 4 : 2;
  const scale = toFloat32(arrayOf(bytes.subarray(0, width), width), form - 2)[0];
  check(scale > 0, 10, `the codebook of tensor ${name} has a scale that is not positive`);
  const mask = new Bits(bytes.subarray(width));
  const book = [];
  for (let j = lowest; j <= highest; j++) {
    const entry = masked ? mask.bits(1) : j;
    check(entry === 0 || j !== 0, 10, `the codebook of tensor ${name} has a zero in its mask`);
    if (entry) book.push(scale * j);
  }
  if (masked) endBits(mask.bytes, mask.at, 10, `the mask of tensor ${name}`);
  check(book.length === k, 10, `the codebook of tensor ${name} has ${book.length} entries, not ${k}`);
  return new Uint32Array(Float32Array.from(book).buffer);
}

/** Entries with the sign bit in falling magnitude, then the others in rising magnitude, and how many have it. */
function sorted(book) {
  const top = book.BYTES_PER_ELEMENT < 8 ? 2 ** (8 * book.BYTES_PER_ELEMENT - 1) : 1n << 63n;
  const rising = book.slice().sort();
  const negative = rising.filter((bits) => bits >= top).reverse();
  const entries = book.slice();
  entries.set(negative);
  entries.set(rising.subarray(0, book.length - negative.length), negative.length);
  return { entries, negative: negative.length };
}

/** The bits of the elements of a coded or adaptive tensor. */
function shared(tensor, section, book) {
  const found = new BITS[tensor.itemsize](tensor.size);
  if (tensor.weightCoder === LITERAL) {
    literals(tensor, section, found);
    return found;
  }
  const { symbols, entries } = indices(tensor, section, book);
  for (let i = 0; i < symbols.length; i++) if (symbols[i]) found[i] = entries[symbols[i] - 1];
  return found;
}

/** For each element 0 or the number of its codebook entry, from 1, and the codebook, as bits. */
function indices(tensor, section, book) {
  const { bookBytes, k, size, nonzeros, weightCoder, offsetBits, name } = tensor;
  if (tensor.encoding === ADAPTIVE) {
    const { entries, negative } = sorted(book);
    return { symbols: adaptive(tensor, section.subarray(bookBytes), negative), entries };
  }
  const parts = coded(tensor, section);
  const what = `the weights of tensor ${name}`;
  if (offsetBits) {
    const symbols = new Uint16Array(size);
    const places = positions(tensor, parts);
    const weights = readSymbols(weightCoder, parts.tables, parts.weights, nonzeros, k, what);
    parts.tables.end();
    for (let i = 0; i < nonzeros; i++) symbols[places[i]] = weights[i] + 1;
    return { symbols, entries: book };
  }
  const symbols = readSymbols(weightCoder, parts.tables, parts.weights, size, k + 1, what);
  parts.tables.end();
  let count = 0;
  for (let i = 0; i < size; i++) if (symbols[i]) count++;
  check(count === nonzeros, 4, `tensor ${name} has ${count} weights, not ${nonzeros}`);
  return { symbols, entries: book };
}

/** The parts of a coded section after the codebook. */
function coded({ name, bookBytes, tables, offsets, weights }, section) {
  const cursor = new Cursor(section, 4, `tensor ${name}`);
  cursor.take(bookBytes);
  return {
    tables: new Cursor(cursor.take(tables), 4, `the tables of tensor ${name}`),
    offsets: cursor.take(offsets),
    weights: cursor.take(weights),
  };
}

/** The places of the weights, in order, from relative offsets. */
function positions({ name, size, nonzeros, fillers, offsetBits, offsetCoder }, { tables, offsets }) {
  const filler = 2 ** offsetBits - 1;
  const count = nonzeros + fillers;
  const skips = readSymbols(offsetCoder, tables, offsets, count, filler + 1, `the offsets of tensor ${name}`);
  const places = new Float64Array(nonzeros);
  let [found, at] = [0, 0];
  for (let i = 0; i < count; i++) {
    at += skips[i];
    if (skips[i] === filler) continue;
    places[found++] = at++;
  }
  check(found === nonzeros, 4, `tensor ${name} has ${found} weights, not ${nonzeros}`);
  check(at <= size, 4, `tensor ${name} has a weight behind its end`);
  check(!count || skips[count - 1] !== filler, 4, `tensor ${name} ends with a filler`);
  return places;
}

function literals(tensor, section, found) {
  const parts = coded(tensor, section);
  const places = positions(tensor, parts);
  parts.tables.end();
  const values = arrayOf(parts.weights, tensor.itemsize);
  check(values.every((bits) => bits), 4, `tensor ${tensor.name} has a literal weight that is zero`);
  for (let i = 0; i < places.length; i++) found[places[i]] = values[i];
}

// Weights by an adaptive model (section 11) -----------------------------------------------------------------

const LIMIT = 2880;
const BLOCK = 2 ** 19;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** squash(t) at t + 2880, and stretch(p): made when they are first needed. */
const logistic = () =>
  (logistic.tables ??= {
    squash: Uint16Array.from({ length: 2 * LIMIT + 1 }, (_, i) =>
      clamp(Math.round(65536 / (1 + Math.exp((LIMIT - i) / 256))), 1, 65535),
    ),
    stretch: Int16Array.from({ length: 65536 }, (_, p) =>
      clamp(Math.round(256 * Math.log(p / (65536 - p))), -LIMIT, LIMIT),
    ),
  });

/** Adaptive probabilities of 30 bits, each with its count; a count of 0 says that there is no value yet. */
class Slots {
  constructor(length, value = 0, count = 0) {
    this.values = new Int32Array(length).fill(value);
    this.counts = new Uint16Array(length).fill(count);
  }

  learn(index, bit, limit) {
    const value = this.values[index];
    const count = this.counts[index];
    const error = (bit ? 0x3fffffff : 0) - value;
    const rate = (65536 / count) | 0;
    // error × rate >> 16 in 32 bits: the halves of the error apart
    this.values[index] = value + Math.imul(error >> 16, rate) + (Math.imul(error & 65535, rate) >>> 16);
    if (count < limit) this.counts[index] = count + 1;
  }
}

/** Mixes logits into a probability, and learns how far to trust each. `step` is 1 for a rate of 32, and 3 for 96. */
class Mixer {
  constructor(weights, step) {
    this.weights = Float64Array.from(weights);
    this.inputs = new Int32Array(weights.length);
    this.step = step;
    this.squash = logistic().squash;
  }

  predict() {
    const { weights, inputs } = this;
    let sum = 0;
    for (let i = 0; i < inputs.length; i++) sum += weights[i] * inputs[i];
    const logit = sum >= LIMIT * 65536 ? LIMIT : sum < -LIMIT * 65536 ? -LIMIT : Math.floor(sum / 65536);
    return (this.probability = this.squash[logit + LIMIT]);
  }

  learn(bit) {
    const { weights, inputs } = this;
    const error = ((bit ? 65535 : 0) - this.probability) * this.step;
    for (let i = 0; i < inputs.length; i++) weights[i] += (error * inputs[i]) >> 17;
  }
}

/** The arithmetic decoder of one block. */
class Decoder {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
    this.state = 0;
    this.refill();
  }

  refill() {
    while (this.state < 0x1000000 && this.at < this.bytes.length) {
      this.state = this.state * 256 + this.bytes[this.at++];
    }
  }

  decide(probability) {
    const low = this.state & 65535;
    const high = this.state >>> 16;
    const bit = low >= 65536 - probability ? 1 : 0;
    this.state = bit ? probability * high + low - (65536 - probability) : (65536 - probability) * high + low;
    if (this.state < 0x1000000) this.refill();
    return bit;
  }

  end(what) {
    check(this.at === this.bytes.length && !this.state, 11, `${what} has a block that does not end as it must`);
  }
}

/** How the columns are cut: `plane` columns make a plane, and `line` of those a line. */
function geometry({ shape, side }) {
  const rows = shape.length > 1 ? shape[0] : 1;
  const rest = shape.length > 1 ? shape.slice(1) : shape;
  const columns = rest.reduce((product, length) => product * length, 1);
  if (side) return { rows, columns, plane: side ** 2, line: side };
  if (shape.length < 3) return { rows, columns, plane: columns, line: columns };
  return { rows, columns, plane: columns / shape[1], line: shape.at(-1) };
}

/** Where an element stands, and what is known around it. */
class Place {
  constructor(tensor, symbols) {
    Object.assign(this, geometry(tensor), { symbols, byColumn: Boolean(tensor.flags & 1) });
    this.row = this.column = this.planeIndex = this.inPlane = this.inLine = 0;
  }

  get index() {
    return this.row * this.columns + this.column;
  }

  next() {
    if (this.byColumn && ++this.row < this.rows) return;
    if (this.byColumn) this.row = 0;
    this.column++;
    if (++this.inLine === this.line) this.inLine = 0;
    if (++this.inPlane === this.plane) {
      this.inPlane = 0;
      this.planeIndex++;
    }
    if (this.byColumn || this.column < this.columns) return;
    this.row++;
    this.column = this.planeIndex = this.inPlane = this.inLine = 0;
  }

  /** The symbol `left` columns to the left and `up` lines above; 0 outside of the line or the plane. */
  beside(left, up) {
    const x = this.inLine - left;
    if (x < 0 || x >= this.line || this.inPlane < up * this.line) return 0;
    return this.symbols[this.index - up * this.line - left];
  }
}

/** Is the next element a weight? */
class Presence {
  constructor(place, size, nonzeros) {
    const { stretch, squash } = logistic();
    const density = clamp(Number((BigInt(nonzeros) << 30n) / BigInt(size)), 2 ** 15, 2 ** 30 - 2 ** 15);
    this.count = clamp(Math.floor(2 ** 26 / Math.min(density, 2 ** 30 - density)), 2, 2000);
    this.base = stretch[density >> 14];
    Object.assign(this, { place, stretch, squash, gap: 0 });
    const { rows, columns, plane } = place;
    const slots = (length) => new Slots(Math.min(length, 65536), density, this.count);
    this.common = [slots(rows), slots(columns), slots(columns / plane), slots(plane)];
    this.tables = [new Slots(64), new Slots(16), new Slots(64), new Slots(605)];
    this.at = new Int32Array(8);
    this.mixer = new Mixer([-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621], 1);
  }

  decode(decoder, left, remaining) {
    this.gather(Math.max(1, Math.floor((left * 65536) / remaining)));
    const bit = decoder.decide(this.mixer.predict());
    this.mixer.learn(bit);
    for (let i = 0; i < 4; i++) {
      this.common[i].learn(this.at[i], bit, 588);
      this.tables[i].learn(this.at[4 + i], bit, 4000);
    }
    return bit;
  }

  /** The inputs S0 to S9 of the mixer; `share` is that of weights among the elements that are left, of 65536. */
  gather(share) {
    const { mixer, place, at, common, tables, stretch } = this;
    const s = mixer.inputs;
    s[0] = stretch[share];
    at[0] = place.row & 65535;
    at[1] = place.column & 65535;
    at[2] = place.planeIndex & 65535;
    at[3] = place.inPlane & 65535;
    s[1] = stretch[common[0].values[at[0]] >> 14];
    s[2] = stretch[common[1].values[at[1]] >> 14];
    s[3] = this.neighbours(s[2]);
    s[4] = stretch[common[2].values[at[2]] >> 14];
    s[5] = stretch[common[3].values[at[3]] >> 14];
    this.contexts(s);
    for (let i = 0; i < 4; i++) {
      const [slots, index] = [tables[i], at[4 + i]];
      if (!slots.counts[index]) {
        slots.values[index] = this.squash[s[0] + LIMIT] << 14;
        slots.counts[index] = this.count;
      }
      s[6 + i] = stretch[slots.values[index] >> 14];
    }
  }

  /** From the slots of the columns around, as far as they are in the plane. */
  neighbours(otherwise) {
    const { column, inLine, inPlane, line, plane, byColumn } = this.place;
    const { values } = this.common[1];
    let [sum, count] = [0, 0];
    const add = (other) => {
      sum += values[other & 65535];
      count++;
    };
    if (inLine) add(column - 1);
    if (inPlane >= line) add(column - line);
    if (!byColumn && inLine < line - 1) add(column + 1);
    if (!byColumn && inPlane + line < plane) add(column + line);
    return count ? this.stretch[Math.floor(sum / count) >> 14] : otherwise;
  }

  /** The indices into the four tables. */
  contexts(s) {
    const { place, at, base } = this;
    const is = (symbol) => (symbol ? 1 : 0);
    const left = is(place.beside(1, 0));
    const above = is(place.beside(0, 1));
    const around = is(place.beside(1, 1)) | (is(place.beside(-1, 1)) << 1);
    const far = is(place.beside(2, 0)) | (is(place.beside(0, 2)) << 1);
    const rowBefore = place.row ? is(place.symbols[place.index - place.columns]) : 0;
    const planeBefore = place.planeIndex ? is(place.symbols[place.index - place.plane]) : 0;
    const near = left | (above << 1);
    const level = (logit, unit, middle, most) => clamp(Math.floor((logit - base) / unit) + middle, 0, most);
    at[4] = near | (around << 2) | (far << 4);
    at[5] = rowBefore | (planeBefore << 1) | (near << 2);
    at[6] = bitLength(this.gap);
    at[7] = (11 * level(s[1], 128, 5, 10) + level(s[2], 128, 5, 10)) * 5 + level(s[3], 192, 2, 4);
  }
}

const bitLength = (number) => (number < 2 ** 31 ? 32 - Math.clz32(number) : 32 + bitLength(Math.floor(number / 2 ** 32)));

/** Which entry of the sorted codebook is a weight? */
class Entry {
  constructor(place, k, negative) {
    Object.assign(this, { place, k, negative, mixed: negative > 0 && negative < k, stretch: logistic().stretch });
    this.first = this.mixed ? negative : k >> 1;
    this.classes = Uint8Array.from({ length: k + 1 }, (_, symbol) => this.classOf(symbol - 1));
    this.sizes = [1, 7, 7, 49, 9, 9];
    this.tables = this.sizes.map((size) => new Slots(k * size));
    this.at = new Int32Array(6);
    this.mixer = new Mixer([-23593, 7209, 3277, 47841, 8847, 7864], 3);
    const lines = (count) => {
      const [last, magnitude, balance] = [0, 1, 2].map(() => new Uint8Array(Math.min(count, 65536)));
      return { last, magnitude, balance: balance.fill(4) };
    };
    this.rows = lines(place.rows);
    this.columns = lines(place.columns);
  }

  classOf(entry) {
    const { k, negative } = this;
    if (entry < 0) return 0;
    if (entry < negative) return 1 + Math.floor((3 * (negative - 1 - entry)) / negative);
    return 4 + Math.floor((3 * (entry - negative)) / (k - negative));
  }

  /** The symbol of the next weight. */
  decode(decoder) {
    const { place, classes, rows, columns, mixed } = this;
    const [row, column] = [place.row & 65535, place.column & 65535];
    const near = 7 * classes[place.beside(1, 0)] + classes[place.beside(0, 1)];
    let [low, high, middle] = [0, this.k, this.first];
    for (let first = mixed; high - low > 1; first = false, middle = (low + high) >> 1) {
      const [a, b] = first ? [rows.balance, columns.balance] : [rows.magnitude, columns.magnitude];
      this.gather(middle, rows.last[row], columns.last[column], near, a[row], b[column]);
      const bit = decoder.decide(this.mixer.predict());
      this.mixer.learn(bit);
      for (let i = 0; i < 6; i++) this.tables[i].learn(this.at[i], bit, 250);
      if (bit) low = middle;
      else high = middle;
    }
    remember(rows, row, classes[low + 1]);
    remember(columns, column, classes[low + 1]);
    return low + 1;
  }

  gather(middle, ...contexts) {
    const { tables, sizes, at, mixer, stretch } = this;
    at[0] = middle;
    for (let i = 1; i < 6; i++) at[i] = middle * sizes[i] + contexts[i - 1];
    for (let i = 0; i < 6; i++) {
      const [slots, index] = [tables[i], at[i]];
      if (!slots.counts[index]) {
        slots.values[index] = i ? tables[0].values[middle] : 2 ** 29;
        slots.counts[index] = i ? 2 : 65;
      }
      mixer.inputs[i] = stretch[slots.values[index] >> 14];
    }
  }
}

/** A row or column keeps the class of its last weight, how large its weights are, and which sign they have. */
function remember({ last, magnitude, balance }, at, found) {
  const size = (found - 1) % 3;
  last[at] = found;
  balance[at] = clamp(balance[at] + (found < 4 ? -1 : 1), 0, 8);
  magnitude[at] = magnitude[at] ? Math.min(5, (3 * magnitude[at] + 8 * size + 2) >> 2) : 2 * size + 1;
}

/** The symbols of an adaptive tensor: 0 for zero, or the number of an entry of the sorted codebook, from 1. */
function adaptive(tensor, stream, negative) {
  const { name, size, nonzeros, k } = tensor;
  const symbols = new Uint16Array(size);
  if (!size) return check(!stream.length, 11, `tensor ${name} is empty, but its stream is not`) && symbols;
  const place = new Place(tensor, symbols);
  const presence = new Presence(place, size, nonzeros);
  const entry = new Entry(place, k, negative);
  const cursor = new Cursor(stream, 11, `the stream of tensor ${name}`);
  let left = nonzeros;
  for (let start = 0; start < size; start += BLOCK) {
    const decoder = nextBlock(cursor, size > BLOCK);
    const end = Math.min(size, start + BLOCK);
    for (let i = start; left && i < end; i++, place.next()) {
      const weight = left === size - i || presence.decode(decoder, left, size - i);
      presence.gap = weight ? 0 : presence.gap + 1;
      if (!weight) continue;
      symbols[place.index] = entry.decode(decoder);
      left--;
    }
    decoder.end(cursor.what);
  }
  cursor.end();
  return symbols;
}

function nextBlock(cursor, several) {
  const length = several ? cursor.varint(cursor.bytes.length, "length of a block") : cursor.bytes.length;
  const bytes = cursor.take(length);
  check(bytes[0] !== 0, 11, `${cursor.what} has a block that starts with 0`);
  return new Decoder(bytes);
}

// What callers see ------------------------------------------------------------------------------------------

/** A `.dc` file. It keeps the bytes that it was made from, and decodes a tensor each time it is asked for. */
class ModelFile {
  #bytes;
  #tensors;
  #maxBytes;

  constructor(bytes, maxBytes) {
    const { version, network, data, checksums, tensors } = parse(bytes);
    this.#bytes = bytes;
    this.#tensors = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    this.#maxBytes = maxBytes;
    Object.assign(this, { version, network, data, checksums, byteLength: bytes.length });
    this.names = tensors.map(({ name }) => name);
    this.decodedBytes = tensors.reduce((sum, { target, size, itemsize }) => sum + (target ? 0 : size * itemsize), 0);
  }

  /** What the header says of a tensor: dtype, shape, and how it is stored. */
  info(name) {
    const tensor = this.#find(name);
    const { dtype, shape, size, encoding, target, length, nonzeros, k } = tensor;
    const found = { name, dtype, shape: [...shape], size, encoding: ENCODINGS[encoding], storedBytes: length };
    if (k !== undefined) Object.assign(found, { nonzeros, codebookSize: k });
    return target ? { ...found, alias: target.name } : found;
  }

  /** The values of a tensor, row by row: Float32Array for float32, float16 and bfloat16, BigInt64Array for int64. */
  get(name) {
    const { type } = this.#find(name);
    const bits = this.#elements(name);
    return type < LAST_FLOAT ? toFloat32(bits, type) : new DTYPES[type][2](bits.buffer);
  }

  /** The bytes of a tensor's elements, little-endian. */
  bytes(name) {
    return new Uint8Array(this.#elements(name).buffer);
  }

  /** The shared values of a coded tensor and, for each element, 0 or the number of its value, from 1; otherwise null. */
  shared(name) {
    const found = this.#find(name);
    const tensor = found.target ?? found;
    if (tensor.k === undefined || tensor.weightCoder === LITERAL) return null;
    const { symbols, entries } = indices(tensor, this.#section(tensor), this.#book(tensor));
    const codebook = tensor.type < LAST_FLOAT ? toFloat32(entries, tensor.type) : new Float64Array(entries.buffer);
    return { codebook, indices: symbols };
  }

  /** Check the checksum of the whole file, and decode every tensor. */
  verify() {
    checkFile(this.#bytes, this.version === 1 ? 1 : 9);
    for (const name of this.names) this.#elements(name);
  }

  #find(name) {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new RangeError(`the file has no tensor ${name}; it has ${this.names.join(", ") || "none"}`);
    return tensor;
  }

  #elements(name) {
    const found = this.#find(name);
    const tensor = found.target ?? found;
    const book = tensor.k === undefined ? null : this.#book(tensor);
    return elements(tensor, this.#section(tensor), book);
  }

  #book(tensor) {
    const owner = tensor.owner ?? tensor;
    return codebook(owner, this.#section(owner));
  }

  /** The bytes of a tensor's section, checked; nothing is decoded if all tensors together are too large. */
  #section({ name, start, length, crc }) {
    const [total, limit] = [this.decodedBytes, this.#maxBytes];
    check(total <= limit, 7, `the tensors take ${total} bytes decoded, more than ${limit}; maxBytes allows more`);
    const section = this.#bytes.subarray(start, start + length);
    check(crc === undefined || crc === crc32(section), 1, `tensor ${name} does not match its checksum`);
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
