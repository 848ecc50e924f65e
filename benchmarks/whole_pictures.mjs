// face-api's whole pipeline in node, asked for by benchmarks/whole_pictures.py.
//
//   node benchmarks/whole_pictures.mjs FOLDER QUESTION.json
//
// FOLDER is where npm installed the packages. QUESTION.json lists pictures as files of
// RGB levels, with width and height: node decodes no JPEG, so reading is left out of
// its time. Prints a line of JSON.

import fs from "node:fs";

import { loaded } from "./load_face_api.mjs";

const pictures = JSON.parse(fs.readFileSync(process.argv[3]));
const { tf, faceapi } = await loaded(process.argv[2], [
  "ssdMobilenetv1",
  "faceLandmark68Net",
  "ageGenderNet",
]);

async function find({ file, width, height }) {
  const levels = fs.readFileSync(file);
  const picture = tf.tensor3d(new Uint8Array(levels), [height, width, 3], "int32");
  const found = await faceapi
    .detectAllFaces(picture, new faceapi.SsdMobilenetv1Options())
    .withFaceLandmarks()
    .withAgeAndGender();
  picture.dispose();
  return found.map((one) => {
    const { x, y, width: across, height: down } = one.detection.box;
    return [x, y, x + across, y + down];
  });
}

await find(pictures[0]);
const cpu = process.cpuUsage();
const clock = performance.now();
const boxes = [];
for (const picture of pictures) boxes.push(await find(picture));
const spent = process.cpuUsage(cpu);
console.log(JSON.stringify({
  processor_ms: (spent.user + spent.system) / 1000 / pictures.length,
  clock_ms: (performance.now() - clock) / pictures.length,
  boxes,
}));
