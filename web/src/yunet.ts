/**
 * YuNet on ONNX Runtime: the network of hydranet_tf/data/face_detector, run and decoded
 * as OpenCV's FaceDetectorYN does.
 *
 * Wu et al. 2023, https://doi.org/10.1007/s11633-023-1423-y.
 */
import * as ort from "onnxruntime-web/wasm";
import type { Picture, Position } from "./crop";

/** A face in the pixels of the picture that was given. */
export interface Row {
  /** 0..1. */
  score: number;
  left: number;
  top: number;
  width: number;
  height: number;
  /** Eyes, nose, corners of the mouth; left and right as the viewer sees. */
  points: Position[];
}

/** Finds the faces with a score of at least `minScore`, best first. */
export type Network = (
  picture: Picture,
  minScore: number,
  mostOverlap: number,
) => Promise<Row[]>;

/** The network sees in cells of so many pixels; its input is a multiple of the last. */
const STRIDES = [8, 16, 32] as const;
const DIVISOR = 32;

/** The input as the file fixes it: dimensions 1, 3, 640, 640 in protobuf's bytes. */
const FIXED = [
  0x0a, 0x02, 0x08, 0x01, 0x0a, 0x02, 0x08, 0x03, 0x0a, 0x03, 0x08, 0x80, 0x05, 0x0a,
  0x03, 0x08, 0x80, 0x05,
];
/** The same length, with names ("h", "w") for height and width: any size will do. */
const NAMED = [
  0x0a, 0x02, 0x08, 0x01, 0x0a, 0x02, 0x08, 0x03, 0x0a, 0x03, 0x12, 0x01, 0x68, 0x0a,
  0x03, 0x12, 0x01, 0x77,
];

/**
 * Loads the network.
 *
 * @param model the .onnx file.
 * @param wasm ONNX Runtime's WebAssembly.
 */
export async function open(model: Uint8Array, wasm: ArrayBuffer): Promise<Network> {
  ort.env.wasm.wasmBinary = wasm;
  // The network is small, and threads would need a file of their own.
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(ofAnySize(model), {
    // Of each run it would say that the outputs are not those of 640 x 640 pixels.
    logSeverityLevel: 3,
  });
  return async (picture, minScore, mostOverlap) => {
    const { width, height, tensor } = input(picture);
    const outputs = await session.run({ input: tensor });
    const values = (name: string) => outputs[name]!.data as Float32Array;
    const rows = STRIDES.flatMap((stride) => {
      const [scores, objects, boxes, points] = ["cls", "obj", "bbox", "kps"].map(
        (name) => values(`${name}_${stride}`),
      ) as [Float32Array, Float32Array, Float32Array, Float32Array];
      const columns = width / stride;
      const cells = columns * (height / stride);
      const found: Row[] = [];
      for (let cell = 0; cell < cells; cell++) {
        const score = Math.sqrt(unit(scores[cell]!) * unit(objects[cell]!));
        if (score < minScore) continue;
        const [column, row] = [cell % columns, Math.floor(cell / columns)];
        const [x, y, w, h] = boxes.subarray(4 * cell, 4 * cell + 4) as unknown as number[];
        const [across, down] = [Math.exp(w!) * stride, Math.exp(h!) * stride];
        found.push({
          score,
          left: (column + x!) * stride - across / 2,
          top: (row + y!) * stride - down / 2,
          width: across,
          height: down,
          points: [0, 1, 2, 3, 4].map((k): Position => [
            (points[10 * cell + 2 * k]! + column) * stride,
            (points[10 * cell + 2 * k + 1]! + row) * stride,
          ]),
        });
      }
      return found;
    });
    return distinct(rows, mostOverlap);
  };
}

function ofAnySize(model: Uint8Array): Uint8Array {
  const places: number[] = [];
  let place = -1;
  while ((place = model.indexOf(FIXED[0]!, place + 1)) >= 0) {
    if (FIXED.every((byte, i) => model[place + i] === byte)) places.push(place);
  }
  if (places.length !== 1) {
    throw new Error("expected YuNet's file with one input of 640 x 640 pixels");
  }
  const changed = model.slice();
  changed.set(NAMED, places[0]);
  return changed;
}

/** Blue, green, red, each level as it is; black at the right and below. */
function input(picture: Picture) {
  const [width, height] = [picture.width, picture.height].map(
    (n) => Math.ceil(n / DIVISOR) * DIVISOR,
  ) as [number, number];
  const plane = width * height;
  const values = new Float32Array(3 * plane);
  for (let y = 0, from = 0; y < picture.height; y++) {
    for (let x = 0, to = y * width; x < picture.width; x++, to++, from += 3) {
      values[to] = picture.levels[from + 2]!;
      values[plane + to] = picture.levels[from + 1]!;
      values[2 * plane + to] = picture.levels[from]!;
    }
  }
  const tensor = new ort.Tensor("float32", values, [1, 3, height, width]);
  return { width, height, tensor };
}

function unit(value: number): number {
  return Math.min(Math.max(value, 0), 1);
}

/** Leaves out what shares more of its area with a better one. */
function distinct(rows: Row[], mostOverlap: number): Row[] {
  const kept: Row[] = [];
  for (const row of rows.sort((a, b) => b.score - a.score)) {
    if (kept.every((better) => overlap(row, better) <= mostOverlap)) kept.push(row);
  }
  return kept;
}

/** The part of their union that two boxes share, in whole pixels as in OpenCV. */
function overlap(a: Row, b: Row): number {
  const [aLeft, aTop, aWidth, aHeight] = whole(a);
  const [bLeft, bTop, bWidth, bHeight] = whole(b);
  const across = Math.min(aLeft + aWidth, bLeft + bWidth) - Math.max(aLeft, bLeft);
  const down = Math.min(aTop + aHeight, bTop + bHeight) - Math.max(aTop, bTop);
  const shared = Math.max(0, across) * Math.max(0, down);
  const union = aWidth * aHeight + bWidth * bHeight - shared;
  return union > 0 ? shared / union : 1;
}

function whole({ left, top, width, height }: Row): [number, number, number, number] {
  return [Math.trunc(left), Math.trunc(top), Math.trunc(width), Math.trunc(height)];
}
