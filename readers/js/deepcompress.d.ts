/** What is wrong with a file. */
export class FormatError extends Error {
  /** The section of the specification (docs/format.md) that the file breaks. */
  readonly section: number;
  constructor(section: number, message: string);
}

export type DType =
  | "float32" | "float16" | "bfloat16" | "float64"
  | "int8" | "uint8" | "int16" | "int32" | "int64" | "bool"
  | "float8_e4m3fn" | "float8_e5m2" | "float8_e4m3fnuz" | "float8_e5m2fnuz" | "float8_e8m0fnu" | "float4_e2m1fn_x2"
  | "uint16" | "uint32" | "uint64" | "complex32" | "complex64" | "complex128";

/**
 * `Float32Array` for floats of 32 bits or fewer; `BigInt64Array` and `BigUint64Array` for 64-bit integers; `Uint8Array` of
 * 0 and 1 for bool, and of whole bytes for float4_e2m1fn_x2, whose elements are pairs. A complex number is two values: its
 * real part, then its imaginary part.
 */
export type Values =
  | Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array
  | BigInt64Array | BigUint64Array;

/** What the header says of a tensor. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: DType;
  /** Empty for a scalar. */
  readonly shape: number[];
  /** The number of elements. */
  readonly size: number;
  readonly encoding: "raw" | "planes" | "coded" | "alias" | "constant" | "adaptive" | "rows" | "copy" | "ranks";
  /** Bytes of its section in the file. */
  readonly storedBytes: number;
  /** The tensor that it equals, if it is an alias or a copy. */
  readonly alias?: string;
  /** How many elements are not zero; this and what follows only of coded, adaptive and ranks tensors. */
  readonly nonzeros?: number;
  /** The number of shared values; 0 if the values are not shared: they are literal, or multiples of a step for each row. */
  readonly codebookSize?: number;
  /** Bits of an offset to the next weight; 0 without offsets. */
  readonly offsetBits?: number;
  readonly fillers?: number;
  /** Bytes of the parts of its section; of ranks, the model counts as tables, and scales as the codebook. */
  readonly parts?: { readonly codebook: number; readonly tables: number; readonly offsets: number; readonly weights: number };
}

/** A `.dc` file. It keeps the bytes that it was made from, and decodes a tensor each time it is asked for. */
export interface ModelFile {
  readonly version: 1 | 2 | 3;
  /** The name of the network; empty if the file does not say it. */
  readonly network: string;
  /** The name of the data set that the network is for, or empty. */
  readonly data: string;
  /** The names of all tensors, in the order of the file. */
  readonly names: string[];
  readonly byteLength: number;
  /** @throws {RangeError} there is no such tensor */
  info(name: string): TensorInfo;
  /**
   * The values of a tensor, row by row (the last dimension varies fastest).
   * @throws {FormatError} the tensor is damaged, or all tensors together are larger than `maxBytes`
   * @throws {RangeError} there is no such tensor
   */
  get(name: string): Values;
  /** The bytes of a tensor's elements in their own dtype, little-endian; throws as `get`. */
  bytes(name: string): Uint8Array;
  /** The shared values and, for each element, 0 or the number of its value, from 1; null if nothing is shared; throws as `get`. */
  shared(name: string): { codebook: Float32Array | Float64Array; indices: Uint16Array } | null;
  /** Check the checksum of the whole file, and decode every tensor; throws as `get`. */
  verify(): void;
}

export interface Options {
  /** Most bytes of all decoded tensors together; without it 1024 times the file, and at least 256 MiB. */
  maxBytes?: number;
}

/**
 * Open a `.dc` file that is in memory; reads the header, and no tensor yet.
 * @throws {FormatError} the file is damaged, or is no `.dc` file
 */
export function open(source: Uint8Array | ArrayBuffer, options?: Options): ModelFile;
