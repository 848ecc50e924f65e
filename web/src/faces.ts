/** From a picture to its faces with predictions: find, crop, predict. */
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import yunetUrl from "../../hydranet_tf/data/face_detector/face_detection_yunet_2023mar.onnx?url";
import { type Picture, type Square, centred, crop, resize } from "./crop";
import { type Face, findFaces, squareOf } from "./detect";
import { fetched } from "./fetched";
import type { Model, Predictions } from "./model";
import { type Network, open } from "./yunet";

export interface PredictedFace {
  /** Absent where the picture was taken as a face and nothing was searched. */
  box?: Face["box"];
  square?: Square;
  /** What the network saw. */
  crop: Picture;
  predictions: Predictions;
  /** To crop the face and to predict. */
  milliseconds: number;
}

let detector: Promise<Network> | undefined;

/** The faces of a picture, largest first. */
async function find(picture: Picture): Promise<Face[]> {
  detector ??= loadDetector().catch((error: unknown) => {
    // A broken connection may be whole the next time.
    detector = undefined;
    throw error;
  });
  return findFaces(picture, await detector);
}

async function loadDetector(): Promise<Network> {
  const [model, wasm] = await Promise.all([fetched(yunetUrl), fetched(wasmUrl)]);
  return open(model, wasm.buffer);
}

/** Finds every face and predicts for it. */
export async function predictFaces(
  model: Model,
  picture: Picture,
): Promise<PredictedFace[]> {
  const predicted: PredictedFace[] = [];
  for (const face of await find(picture)) {
    const start = performance.now();
    const square = squareOf(face, model.description.face.points);
    const cropped = crop(picture, square, model.description.image_size);
    const predictions = await model.predict(cropped);
    const milliseconds = performance.now() - start;
    predicted.push({ box: face.box, square, crop: cropped, predictions, milliseconds });
  }
  return predicted;
}

/** Predicts for a picture that is a face already, cropped as training faces are. */
export async function predictWhole(
  model: Model,
  picture: Picture,
): Promise<PredictedFace[]> {
  const start = performance.now();
  const cropped = resize(centred(picture), model.description.image_size);
  const predictions = await model.predict(cropped);
  return [{ crop: cropped, predictions, milliseconds: performance.now() - start }];
}
