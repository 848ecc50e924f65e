/** From a picture to its faces with answers: find, cut, answer. */
import type { CompiledModel } from "@litertjs/core";
import detectorUrl from "@mediapipe/face_detection/face_detection_full_range.tflite?url";
import { type Picture, type Square, centred, cut, resize } from "./crop";
import { INPUT_SIDE, type Face, faces, input, squareOf } from "./detect";
import type { Answers, Model } from "./model";
import { compile, run } from "./runtime";

export interface AnsweredFace {
  /** Absent where the picture was taken as a face and nothing was searched. */
  box?: Face["box"];
  square?: Square;
  /** What the network saw. */
  crop: Picture;
  answers: Answers;
  /** To cut the face and to answer. */
  milliseconds: number;
}

let detector: Promise<CompiledModel> | undefined;

/** The faces of a picture, largest first. */
export async function find(picture: Picture): Promise<Face[]> {
  detector ??= loadDetector().catch((error: unknown) => {
    detector = undefined;
    throw error;
  });
  const shape = [1, INPUT_SIDE, INPUT_SIDE, 3];
  const outputs = Object.values(await run(await detector, input(picture), shape));
  // The longer of its two outputs has boxes and points, the other scores.
  const [scores, rows] = outputs.sort((a, b) => a.length - b.length);
  return faces(picture, rows as Float32Array, scores as Float32Array);
}

async function loadDetector(): Promise<CompiledModel> {
  const response = await fetch(detectorUrl);
  if (!response.ok) throw new Error(`${detectorUrl}: ${response.status}`);
  return compile(new Uint8Array(await response.arrayBuffer()));
}

/** Finds and answers every face. */
export async function answerFaces(
  model: Model,
  picture: Picture,
): Promise<AnsweredFace[]> {
  const answered: AnsweredFace[] = [];
  for (const face of await find(picture)) {
    const start = performance.now();
    const square = squareOf(face, model.description.face.points);
    const crop = cut(picture, square, model.description.image_size);
    const answers = await model.answer(crop);
    const milliseconds = performance.now() - start;
    answered.push({ box: face.box, square, crop, answers, milliseconds });
  }
  return answered;
}

/** Answers a picture that is a face already, cut as training faces are. */
export async function answerWhole(
  model: Model,
  picture: Picture,
): Promise<AnsweredFace[]> {
  const start = performance.now();
  const crop = resize(centred(picture), model.description.image_size);
  const answers = await model.answer(crop);
  return [{ crop, answers, milliseconds: performance.now() - start }];
}
