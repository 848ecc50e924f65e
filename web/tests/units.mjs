// Answers questions about single functions of src/, for
// tests/integration/test_web_functions.py. Levels travel in Base64.
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
const yunet = await vite.ssrLoadModule("/src/yunet.ts");

const file = (path) => readFile(new URL(path, import.meta.url));
const network = await yunet.open(
  await file("../../hydranet_tf/data/face_detector/face_detection_yunet_2023mar.onnx"),
  await file("../node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"),
);

const found = [];
for (const image of questions.find) {
  const faces = await detect.findFaces(picture(image), network);
  found.push(faces.map((face) => ({ ...face, square: detect.squareOf(face) })));
}
const answers = {
  locate: questions.locate.map(([found, target]) => crop.locate(found, target)),
  crop: questions.crop.map(({ image, square, size }) =>
    encoded(crop.crop(picture(image), square, size).levels),
  ),
  black: questions.crop.map(({ image, square, size }) =>
    encoded(crop.sampled(picture(image), square, size, "black").levels),
  ),
  resize: questions.resize.map(({ image, size }) =>
    encoded(crop.resize(crop.centred(picture(image)), size).levels),
  ),
  scaled: questions.scaled.map(({ image, scale }) =>
    encoded(detect.scaled(picture(image), scale).levels),
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
  find: found,
};
process.stdout.write(JSON.stringify(answers));
await vite.close();
