import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { NoemaError } from "../../lib/errors.js";
import { libcHere, libcNeeded } from "../../lib/native/libc.js";
import { openAddon, type Places, platformPackage } from "../../lib/native/load.js";
import { packageVersion } from "../../lib/package.js";
import { root } from "../support/files.js";

const built = join(root, "build/Release/noema.node");

/** A folder like an installed package; files maps paths to contents. */
function folder(t: ExecutionContext, files: Record<string, string>): string {
  const path = mkdtempSync(join(tmpdir(), "noema-load-"));
  t.teardown(() => rmSync(path, { recursive: true }));
  for (const [name, text] of Object.entries({ "package.json": "{}", ...files })) {
    mkdirSync(join(path, name, ".."), { recursive: true });
    writeFileSync(join(path, name), text);
  }
  return path;
}

function refusal(t: ExecutionContext, places: Places): NoemaError {
  const error = t.throws(() => openAddon(places), { instanceOf: NoemaError });
  t.is(error?.code, "ERR_ADDON_MISSING");
  return error!;
}

test("nothing there: one message with what was tried and what to type", (t) => {
  const { message, details } = refusal(t, { environment: {}, root: folder(t, {}) });
  t.regex(
    message,
    /^no native addon for \w+-\w+; tried @noema\/[\w-]+: not installed; local build \(.*noema\.node\): it has not been built\./,
  );
  t.regex(message, /npm install cmake-js@8 && node .*setup\.mjs --addon$/);
  t.is(message.split("\n").length, 1);
  t.is((details["attempts"] as unknown[]).length, 2);
});

test("in a checkout the remedy is the build script", (t) => {
  t.regex(
    refusal(t, { environment: {}, root: folder(t, { "package-lock.json": "{}" }) }).message,
    /to mend it: npm --prefix .* run build$/,
  );
});

test("a broken local build is named with the dynamic linker's words", (t) => {
  const path = folder(t, { "build/Release/noema.node": "not a library; GLIBC_2.4 GLIBC_2.38 GLIBC_2.9" });
  const { message } = refusal(t, { environment: {}, root: path });
  t.regex(message, /build\/Release\/noema\.node\): .*(invalid ELF header|file too short|not a mach-o|slice)/i);
  if (process.platform === "linux") t.true(message.includes(`libc here: ${libcHere()}, needed: glibc 2.38`));
});

test("an explicit path never falls back", (t) => {
  const path = folder(t, { "build/Release/noema.node": "x", "addon.txt": "x" });
  const missing = refusal(t, { environment: { NOEMA_ADDON: join(path, "elsewhere.node") }, root: path });
  t.regex(missing.message, /NOEMA_ADDON \(.*elsewhere\.node\): there is no such file\./);
  t.regex(missing.message, /unset it$/);
  t.is((missing.details["attempts"] as unknown[]).length, 1);
  const text = refusal(t, { environment: { NOEMA_ADDON: join(path, "addon.txt") }, root: path });
  t.regex(text.message, /does not end in \.node/);
});

test("a platform package of another version is declined", (t) => {
  const manifest = `node_modules/${platformPackage()}/package.json`;
  const path = folder(t, { [manifest]: '{ "version": "99.0.0" }' });
  t.regex(
    refusal(t, { environment: {}, root: path }).message,
    new RegExp(`it is version 99.0.0, this is noema ${packageVersion}`),
  );
});

test("the glibc that a binary needs is the newest one it names", (t) => {
  const path = folder(t, { "a.node": "GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.17", "b.node": "nothing" });
  t.is(libcNeeded(join(path, "a.node")), "glibc 2.34");
  t.is(libcNeeded(join(path, "b.node")), undefined);
  t.is(libcNeeded(join(path, "absent.node")), undefined);
});

test("the platform's package goes before the local build", (t) => {
  t.true(existsSync(built), "the addon is built before the tests run");
  const name = `node_modules/${platformPackage()}`;
  const path = folder(t, { [`${name}/package.json`]: JSON.stringify({ version: packageVersion }) });
  cpSync(built, join(path, name, "noema.node"));
  const { addon, attempts } = openAddon({ environment: {}, root: path });
  t.is(typeof addon.info, "function");
  t.deepEqual(attempts, [{ source: platformPackage(), path: join(path, name, "noema.node") }]);
});

test("the local build is found and opened", (t) => {
  const { path, attempts } = openAddon({ environment: {}, root });
  t.is(path, built);
  t.is(attempts.at(-1)?.reason, undefined);
});
