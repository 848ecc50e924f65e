// face-api in node, on WebAssembly with one thread, for the scripts beside this one.

import { createRequire } from "node:module";
import path from "node:path";

/**
 * @param folder where npm installed the packages
 * @param names of the networks to load, as in `faceapi.nets`
 * @returns TensorFlow.js as `tf`, and `faceapi`
 */
export async function loaded(folder, names) {
  const root = path.resolve(folder);
  const require = createRequire(path.join(root, "package.json"));
  const tf = require("@tensorflow/tfjs");
  const wasm = require("@tensorflow/tfjs-backend-wasm");
  const faceapi = require("@vladmandic/face-api/dist/face-api.node-wasm.js");

  const modules = path.join(root, "node_modules");
  wasm.setWasmPaths(path.join(modules, "@tensorflow/tfjs-backend-wasm/dist/"));
  wasm.setThreadsCount(1);
  await tf.setBackend("wasm");
  await tf.ready();
  const models = path.join(modules, "@vladmandic/face-api/model");
  for (const name of names) await faceapi.nets[name].loadFromDisk(models);
  return { tf, faceapi };
}
