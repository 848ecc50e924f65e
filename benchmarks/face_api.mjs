// Answers of face-api's age and gender network, asked for on standard input by
// benchmarks/face_api.py: a line of JSON in, a line of JSON out.
//
//   node benchmarks/face_api.mjs FOLDER
//
// FOLDER is where npm installed the packages.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";

const folder = path.resolve(process.argv[2]);
const require = createRequire(path.join(folder, "package.json"));
const tf = require("@tensorflow/tfjs");
const wasm = require("@tensorflow/tfjs-backend-wasm");
const faceapi = require("@vladmandic/face-api/dist/face-api.node-wasm.js");

const modules = path.join(folder, "node_modules");
wasm.setWasmPaths(path.join(modules, "@tensorflow/tfjs-backend-wasm/dist/"));
wasm.setThreadsCount(1);
await tf.setBackend("wasm");
await tf.ready();
const network = faceapi.nets.ageGenderNet;
await network.loadFromDisk(path.join(modules, "@vladmandic/face-api/model"));

async function answer(face) {
  const found = await network.predictAgeAndGender(face);
  return [found.age, found.gender];
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { file, size, repeat } = JSON.parse(line);
  const levels = fs.readFileSync(file);
  const values = size * size * 3;
  const answers = [];
  for (let start = 0; start < levels.length; start += values) {
    const face = tf.tensor3d(levels.subarray(start, start + values), [size, size, 3], "int32");
    for (let i = 0; i < repeat; i += 1) answers.push(await answer(face));
    face.dispose();
  }
  console.log(JSON.stringify(answers));
}
