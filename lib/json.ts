/** JSON from untrusted files: UTF-8 without a byte-order mark, no duplicate keys, an object at the top. */

import { type ErrorCode, NoemaError } from "./errors.js";

export type JsonObject = Record<string, unknown>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Parses the bytes; whatever is wrong is `code` with a message that starts with `what`. */
export function parseObject(bytes: Uint8Array, what: string, code: ErrorCode): JsonObject {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw new NoemaError(code, `${what}: not valid JSON: ${(error as Error).message}`, {}, { cause: error });
  }
  if (!isObject(value)) {
    throw new NoemaError(code, `${what}: found ${describe(value)}, expected an object`);
  }
  const duplicate = duplicateKey(text);
  if (duplicate !== undefined)
    throw new NoemaError(code, `${what}: the key ${describe(duplicate)} occurs twice in one object`);
  return value;
}

/** Characters of a value in a message. */
const SHORT = 80;

/** Any value in a message: short, and with its type where that is not obvious. */
export function describe(value: unknown): string {
  if (Array.isArray(value)) return "an array";
  if (isObject(value)) return "an object";
  if (value === undefined) return "nothing";
  if (typeof value === "function") return "a function";
  const text = textOf(value);
  return text.length > SHORT ? `${text.slice(0, SHORT - 3)}...` : text;
}

/** JSON has no words for NaN, big integers and symbols; of a text no more is quoted than may be shown. */
function textOf(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, SHORT));
  return typeof value === "bigint" ? `${value}n` : String(value);
}

/**
 * The first key that one object holds twice. The text is known to be valid JSON, so strings and brackets suffice: a string
 * is a key when it follows "{", or a "," whose innermost bracket is an object's.
 */
function duplicateKey(text: string): string | undefined {
  const enclosing: (Set<string> | undefined)[] = [];
  let keys: Set<string> | undefined; // of the innermost object; undefined in an array
  let expectsKey = false;
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"': {
        const end = stringEnd(text, i);
        if (expectsKey && keys !== undefined) {
          const raw = text.slice(i + 1, end);
          const key: string = raw.includes("\\") ? JSON.parse(`"${raw}"`) : raw;
          if (keys.has(key)) return key;
          keys.add(key);
        }
        expectsKey = false;
        i = end;
        break;
      }
      case "{":
      case "[":
        enclosing.push(keys);
        keys = text[i] === "{" ? new Set() : undefined;
        expectsKey = true;
        break;
      case "}":
      case "]":
        keys = enclosing.pop();
        break;
      case ",":
        expectsKey = true;
    }
  }
  return undefined;
}

/** Where the string that starts at `start` has its closing quote: the first that no odd number of backslashes stands before. */
function stringEnd(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); ; end = text.indexOf('"', end + 1)) {
    let first = end;
    while (text[first - 1] === "\\") first--;
    if ((end - first) % 2 === 0) return end;
  }
}
