/** The whole public API. */

export { type ErrorCode, errorMeanings, NoemaError } from "./errors.js";
