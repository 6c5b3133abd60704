/** What is wrong with an update, or with the file that it is given; `section` is that of docs/update-format.md. */
export class UpdateError extends Error {
  readonly section: number;
}

/**
 * The new file that an update makes of the old one.
 *
 * @param options.maxBytes most bytes of all decoded tensors of the new file together; without it 1024 times old file and
 *   update, and at least 256 MiB
 * @throws {UpdateError | FormatError} the update is damaged, is for another file, or was applied already
 */
export function patch(
  old: Uint8Array | ArrayBuffer,
  update: Uint8Array | ArrayBuffer,
  options?: { maxBytes?: number },
): Uint8Array;
