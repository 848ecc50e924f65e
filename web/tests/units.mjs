// Answers questions about single functions of src/, for tests/test_web.py.
// In: one JSON object on standard input. Out: one JSON object on standard output.
import { webcrypto } from "node:crypto";
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { createServer } from "vite";

const picture = ({ width, height, levels }) => ({
  width,
  height,
  levels: Uint8Array.from(Buffer.from(levels, "base64")),
});
const encoded = ({ levels }) => Buffer.from(levels).toString("base64");

// Node 18 has it, and not by this name; browsers do.
globalThis.crypto ??= webcrypto;

const questions = JSON.parse(await text(process.stdin));
const vite = await createServer({
  root: new URL("..", import.meta.url).pathname,
  server: { middlewareMode: true, ws: false },
  appType: "custom",
  optimizeDeps: { noDiscovery: true },
  logLevel: "error",
});
const crop = await vite.ssrLoadModule("/src/crop.ts");
const metadata = await vite.ssrLoadModule("/src/metadata.ts");
const detect = await vite.ssrLoadModule("/src/detect.ts");

const answers = {
  locate: questions.locate.map(([found, target]) => crop.locate(found, target)),
  cut: questions.cut.map(({ image, square, size }) =>
    encoded(crop.cut(picture(image), square, size)),
  ),
  resize: questions.resize.map(({ image, size }) =>
    encoded(crop.resize(crop.centred(picture(image)), size)),
  ),
  read: await Promise.all(
    questions.read.map(async (path) => {
      try {
        return { description: await metadata.read(await readFile(path)) };
      } catch (error) {
        return { error: error.message, known: error instanceof metadata.ModelError };
      }
    }),
  ),
  input: questions.input.map((image) => [...detect.input(picture(image))]),
  faces: questions.faces.map(({ image, regressors, scores }) =>
    detect.faces(picture(image), Float32Array.from(regressors), Float32Array.from(scores)),
  ),
};
process.stdout.write(JSON.stringify(answers));
await vite.close();
