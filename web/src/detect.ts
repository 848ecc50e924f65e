/**
 * Finds faces with BlazeFace (full range), the detector of MediaPipe, from the
 * package @mediapipe/face_detection; LiteRT runs it as it runs the network.
 *
 * Sources: Bazarevsky et al. 2019, https://arxiv.org/abs/1907.05047; the model's
 * input, anchors and outputs as in MediaPipe's face_detection_full_range graph.
 */
import type { Contract } from "./metadata";
import { type Picture, type Position, type Square, locate } from "./crop";

/** Side of the detector's input in pixels. */
export const INPUT_SIDE = 192;
/** One anchor at the centre of each cell of a grid. */
const CELLS = 48;
/** Centre, width and height of the box, then six points. */
const ROW = 16;
const LOWEST_SCORE = 0.6;
/** Boxes that share more than this part of their union are one face. */
const MOST_OVERLAP = 0.3;

/** Order of the points that count here; the nose tells less than it disturbs. */
const LEFT_EYE = 0;
const RIGHT_EYE = 1;
const MOUTH = 3;

/**
 * Where this detector sees the points, minus where the contract has them, as
 * fractions of the crop's side: medians over 465 faces of UTKFace, measured by
 * benchmarks/browser_detector.py. The contract was measured with another detector,
 * and each has its own idea of an eye.
 */
const OFFSETS: Position[] = [
  [-0.023, -0.013],
  [-0.0255, -0.011],
  [-0.0195, 0.0005],
];

export interface Face {
  /** Left, top, right, bottom in pixels of the picture. */
  box: [number, number, number, number];
  score: number;
  /** The eyes and the middle of the mouth, left and right as the viewer sees. */
  points: Position[];
}

/** The square that shows a face as the contract of a model says. */
export function squareOf(face: Face, contract: Contract): Square {
  const [left, right] = [contract.mouth_left, contract.mouth_right];
  const mouth: Position = [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2];
  const target = [contract.left_eye, contract.right_eye, mouth].map(
    ([x, y], i): Position => [x + OFFSETS[i]![0], y + OFFSETS[i]![1]],
  );
  return locate(face.points, target);
}

/**
 * The picture as the detector wants it: the whole of it in the middle of a black
 * square, levels from -1 to 1. Each pixel is the mean of those that it covers.
 */
export function input(picture: Picture): Float32Array {
  const { scale, left, top } = frame(picture);
  const { width, height, levels } = picture;
  const filled = new Float32Array(3 * INPUT_SIDE * INPUT_SIDE).fill(-1);
  const columns = spans(width, scale, left);
  for (const { target: row, from: y0, to: y1 } of spans(height, scale, top)) {
    for (const { target: column, from: x0, to: x1 } of columns) {
      const sums = [0, 0, 0];
      for (let y = y0; y < y1; y++) {
        for (let x = x0; x < x1; x++) {
          const at = 3 * (y * width + x);
          sums[0]! += levels[at]!;
          sums[1]! += levels[at + 1]!;
          sums[2]! += levels[at + 2]!;
        }
      }
      const area = (y1 - y0) * (x1 - x0);
      sums.forEach((sum, channel) => {
        const at = 3 * (row * INPUT_SIDE + column) + channel;
        filled[at] = sum / area / 127.5 - 1;
      });
    }
  }
  return filled;
}

/** How a picture lies in the input: input = picture * scale + (left, top). */
function frame({ width, height }: Picture) {
  const scale = INPUT_SIDE / Math.max(width, height);
  return {
    scale,
    left: (INPUT_SIDE - width * scale) / 2,
    top: (INPUT_SIDE - height * scale) / 2,
  };
}

/** The source pixels, one where the picture grows, of each target along a side. */
function spans(length: number, scale: number, start: number) {
  const found: { target: number; from: number; to: number }[] = [];
  for (let target = 0; target < INPUT_SIDE; target++) {
    const middle = (target + 0.5 - start) / scale;
    if (middle < 0 || middle >= length) continue;
    const half = Math.max(0, 0.5 / scale - 0.5);
    const from = Math.max(Math.floor(middle - half), 0);
    const to = Math.min(Math.floor(middle + half) + 1, length);
    found.push({ target, from, to });
  }
  return found;
}

/**
 * The faces in the detector's answers, largest first.
 *
 * @param regressors [2304, 16] in pixels of the input, about each anchor.
 * @param scores [2304], before the sigmoid.
 */
export function faces(
  picture: Picture,
  regressors: Float32Array,
  scores: Float32Array,
): Face[] {
  const { scale, left, top } = frame(picture);
  const candidates: Face[] = [];
  scores.forEach((logit, i) => {
    const score = 1 / (1 + Math.exp(-logit));
    if (!(score >= LOWEST_SCORE)) return;
    const anchorX = ((i % CELLS) + 0.5) * (INPUT_SIDE / CELLS);
    const anchorY = (Math.floor(i / CELLS) + 0.5) * (INPUT_SIDE / CELLS);
    const row = regressors.subarray(ROW * i, ROW * (i + 1));
    const at = (k: number): Position => [
      (row[k]! + anchorX - left) / scale,
      (row[k + 1]! + anchorY - top) / scale,
    ];
    const [x, y] = at(0);
    const [halfX, halfY] = [row[2]! / scale / 2, row[3]! / scale / 2];
    candidates.push({
      box: [x - halfX, y - halfY, x + halfX, y + halfY],
      score,
      points: [LEFT_EYE, RIGHT_EYE, MOUTH].map((k) => at(4 + 2 * k)),
    });
  });
  return merge(candidates).sort((a, b) => area(b) - area(a));
}

/** Neighbouring anchors see the same face: their mean by score is the face. */
function merge(candidates: Face[]): Face[] {
  let left = [...candidates].sort((a, b) => b.score - a.score);
  const merged: Face[] = [];
  while (left[0]) {
    const best = left[0];
    const same = left.filter((one) => one === best || overlap(one, best) > MOST_OVERLAP);
    left = left.filter((one) => !same.includes(one));
    const total = same.reduce((sum, one) => sum + one.score, 0);
    const average = (value: (one: Face) => number) =>
      same.reduce((sum, one) => sum + one.score * value(one), 0) / total;
    merged.push({
      score: best.score,
      box: [0, 1, 2, 3].map((k) => average((one) => one.box[k]!)) as Face["box"],
      points: best.points.map((_, k) => [
        average((one) => one.points[k]![0]),
        average((one) => one.points[k]![1]),
      ]),
    });
  }
  return merged;
}

function area({ box: [left, top, right, bottom] }: Face): number {
  return (right - left) * (bottom - top);
}

/** The part of their union that two boxes share. */
function overlap(a: Face, b: Face): number {
  const across = Math.min(a.box[2], b.box[2]) - Math.max(a.box[0], b.box[0]);
  const down = Math.min(a.box[3], b.box[3]) - Math.max(a.box[1], b.box[1]);
  const shared = Math.max(0, across) * Math.max(0, down);
  return shared / (area(a) + area(b) - shared);
}
