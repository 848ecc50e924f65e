// Answers questions about single functions of src/, for tests/integration/test_web.py and
// benchmarks/browser_detector.py. Levels and floats travel in Base64.
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
const encoded = ({ buffer }) => Buffer.from(buffer).toString("base64");
const floats = (text) => new Float32Array(new Uint8Array(Buffer.from(text, "base64")).buffer);

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
    encoded(crop.cut(picture(image), square, size).levels),
  ),
  resize: questions.resize.map(({ image, size }) =>
    encoded(crop.resize(crop.centred(picture(image)), size).levels),
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
  input: questions.input.map((image) => encoded(detect.input(picture(image)))),
  faces: questions.faces.map(({ image, regressors, scores, contract }) =>
    detect
      .faces(picture(image), floats(regressors), floats(scores))
      .map((face) => ({ ...face, square: detect.squareOf(face, contract) })),
  ),
};
process.stdout.write(JSON.stringify(answers));
await vite.close();
