// Predictions of face-api's age and gender network, asked for on standard input by
// benchmarks/face_api.py: a line of JSON in, a line of JSON out.
//
//   node benchmarks/face_api.mjs FOLDER
//
// FOLDER is where npm installed the packages.

import fs from "node:fs";
import readline from "node:readline";

import { loaded } from "./load_face_api.mjs";

const { tf, faceapi } = await loaded(process.argv[2], ["ageGenderNet"]);
const network = faceapi.nets.ageGenderNet;

async function predict(face) {
  const found = await network.predictAgeAndGender(face);
  return [found.age, found.gender];
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { file, size, repeat } = JSON.parse(line);
  const levels = fs.readFileSync(file);
  const values = size * size * 3;
  const predictions = [];
  for (let start = 0; start < levels.length; start += values) {
    const face = tf.tensor3d(levels.subarray(start, start + values), [size, size, 3], "int32");
    for (let i = 0; i < repeat; i += 1) predictions.push(await predict(face));
    face.dispose();
  }
  console.log(JSON.stringify(predictions));
}
