// Puts LiteRT's WebAssembly where Vite takes it up as it is: the loader finds a
// .wasm by the name of its .js, which hashed names would break.
import { cp, mkdir, rm } from "node:fs/promises";

const source = new URL("node_modules/@litertjs/core/wasm/", import.meta.url);
const target = new URL("public/wasm/", import.meta.url);

await rm(target, { recursive: true, force: true });
await mkdir(target, { recursive: true });
// One for threads, one without, one for browsers without relaxed SIMD.
for (const build of ["_threaded", "", "_compat"]) {
  for (const ending of ["js", "wasm"]) {
    const name = `litert_wasm${build}_internal.${ending}`;
    await cp(new URL(name, source), new URL(name, target));
  }
}
