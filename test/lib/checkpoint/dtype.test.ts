import test from "ava";
import fc from "fast-check";
import { fromBf16, fromF16, toBf16 } from "../../../lib/checkpoint/dtype.js";

const floats = fc.float32Array({ maxLength: 20 });

test("bf16 to f32 and back is the identity on every bit pattern but signalling NaNs", (t) => {
  const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
  const back = toBf16(fromBf16(all));
  const wrong = all.filter((bits, i) => back[i] !== ((bits & 0x7fff) > 0x7f80 ? bits | 0x40 : bits));
  t.is(wrong.length, 0);
});

test("toBf16 rounds to the nearest, ties to even", (t) => {
  const values = new Float32Array(new Uint32Array([0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0xff800000]).buffer);
  t.deepEqual([...toBf16(values)], [0x3f80, 0x3f82, 0x3f81, 0x7f80, 0xff80]);
  fc.assert(
    fc.property(floats, (given) => {
      fromBf16(toBf16(given)).forEach((rounded, i) => {
        const value = given[i]!;
        if (Number.isFinite(value) && Number.isFinite(rounded)) {
          // Half a step of 8 significant bits, or of the smallest subnormal 2^-133.
          t.true(Math.abs(rounded - value) <= Math.max(Math.abs(value) * 2 ** -8, 2 ** -134));
        } else t.is(Number.isNaN(rounded), Number.isNaN(value));
      });
    }),
  );
});

test("toBf16 reads views that do not start at 0", (t) => {
  const values = new Float32Array([9, 1, -2]);
  t.deepEqual([...fromBf16(toBf16(values.subarray(1)))], [1, -2]);
});

test("f16: known values", (t) => {
  const bits = Uint16Array.of(0x0000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0x7c00, 0xfc00, 0x3555);
  const [third] = [1365 * 2 ** -12];
  t.deepEqual([...fromF16(bits)], [0, 1, -2, 65504, 2 ** -24, 2 ** -14, Infinity, -Infinity, third]);
  t.true(Number.isNaN(fromF16(Uint16Array.of(0x7e00))[0]!));
  t.true(Object.is(fromF16(Uint16Array.of(0x8000))[0], -0));
});
