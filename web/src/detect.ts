/**
 * Finds faces of any size and turn as hydranet_tf/data/detection.py does: the same
 * network, the same two steps, the same numbers. That file has the reasons and where
 * the numbers come from.
 *
 * 1. The whole picture is searched at a small scale, with a low threshold.
 * 2. Every candidate is looked at again in a patch of the picture, turned until the
 *    face stands upright in it. Score and landmarks come from there.
 */
import { type Picture, type Position, type Square, locate, sampled, side } from "./crop";
import type { Contract } from "./metadata";
import type { Network } from "./yunet";

const MIN_SCORE = 0.88;
const SEARCHED = 640;
const CANDIDATE_SCORE = 0.4;
const PATCH_FACE = 160;
const PATCH = 256;
const CLOSE_FACE = 200;
const SURELY_UPRIGHT = 0.92;
const HOPELESS = 0.6;
const TURN_GAIN = 0.02;
const LEVEL_DEGREES = 6;
const LOOKS = 3;
const TO_CONTRACT: Position[] = [
  [0.029, 0.025],
  [0.025, 0.021],
  [0.042, 0.038],
  [0.022, 0.036],
  [0.038, 0.033],
];
const MOST_MISPLACED = 0.2;
const TILE = 1280;
const OVERLAP = 256;
const TURNED_SCALE = 0.5;
const HEIGHT_OF_WIDTH = 1.25;
const FACE_OF_SQUARE = 0.88;
const FINEST = 8;

/** The crop contract of hydranet_tf/data/crops.py, which the landmarks are moved to. */
const CONTRACT: Contract = {
  left_eye: [0.32, 0.31],
  right_eye: [0.71, 0.31],
  nose: [0.515, 0.54],
  mouth_left: [0.335, 0.71],
  mouth_right: [0.69, 0.71],
};

export interface Face {
  /** Left, top, right, bottom in pixels of the picture. */
  box: [number, number, number, number];
  /** 0..1. */
  score: number;
  /** Eyes, nose, corners of the mouth; left and right as the viewer sees. */
  points: Position[];
}

/** A face as it was seen in a part of a picture, in pixels of the picture. */
interface Look {
  score: number;
  centre: Position;
  /** Of its box, along `upright`. */
  width: number;
  /** Of its box, across it. */
  height: number;
  /** Unit vector along the part's upper edge: [1, 0] where it was not turned. */
  upright: Position;
  points: Position[];
}

/** The square that shows a face as the contract of a model says. */
export function squareOf(face: { points: Position[] }, contract = CONTRACT): Square {
  const { left_eye, right_eye, nose, mouth_left, mouth_right } = contract;
  return locate(face.points, [left_eye, right_eye, nose, mouth_left, mouth_right]);
}

/** The faces of a picture, largest first. */
export async function findFaces(picture: Picture, network: Network): Promise<Face[]> {
  let found = await search(picture, network, 0);
  if (!found.length) {
    // A picture that was never turned upright. Its faces are more often large.
    for (const quarters of [1, 2, 3]) {
      found = found.concat(await search(picture, network, quarters));
    }
  }
  return distinct(found)
    .map(faceOf)
    .sort((a, b) => area(b) - area(a));
}

function area({ box: [left, top, right, bottom] }: Face): number {
  return (right - left) * (bottom - top);
}

/** Around the ellipse in the turned box, as no face fills its corners. */
function faceOf({ score, centre, width, height, upright, points }: Look): Face {
  const x = Math.hypot((width / 2) * upright[0], (height / 2) * upright[1]);
  const y = Math.hypot((width / 2) * upright[1], (height / 2) * upright[0]);
  const box: Face["box"] = [centre[0] - x, centre[1] - y, centre[0] + x, centre[1] + y];
  return { box, score, points };
}

/** The faces of a picture that is turned by quarters for the first step. */
async function search(
  picture: Picture,
  network: Network,
  quarters: number,
): Promise<Look[]> {
  const shorter = Math.min(picture.width, picture.height);
  const scale = Math.min(1, SEARCHED / shorter) * (quarters ? TURNED_SCALE : 1);
  const looks: Look[] = [];
  for (const one of distinct(await candidates(picture, network, scale, quarters))) {
    const look = await examined(picture, network, one);
    if (look && look.score >= MIN_SCORE && misplacement(look) < MOST_MISPLACED) {
      looks.push(look);
    }
  }
  return looks;
}

/** What may be a face in a picture that is shrunk and turned clockwise. */
async function candidates(
  picture: Picture,
  network: Network,
  scale: number,
  quarters: number,
): Promise<Look[]> {
  const { width, height } = picture;
  // Where the turned picture's upper left corner and upper edge lie in the picture.
  const corner = (
    [[0, 0], [0, height], [width, height], [width, 0]] as const
  )[quarters]!;
  const upright = ([[1, 0], [0, -1], [-1, 0], [0, 1]] as const)[quarters]!;
  const across = quarters % 2 ? height : width;
  let searched = turned(scaled(picture, scale), quarters);
  const found: Look[] = [];
  for (;;) {
    const step = times(upright, across / searched.width);
    for (const { left, top, tile } of tiles(searched)) {
      const start = plus(corner, product(step, [left, top]));
      found.push(...(await seen(tile, network, start, step, 0.3)));
    }
    if (Math.max(searched.width, searched.height) <= TILE) return found;
    searched = scaled(searched, 0.5);
  }
}

/** Overlapping parts that cover a picture. */
function tiles(picture: Picture) {
  return starts(picture.height).flatMap((top) =>
    starts(picture.width).map((left) => ({ left, top, tile: part(picture, left, top) })),
  );
}

function starts(length: number): number[] {
  const count = Math.max(1, Math.ceil((length - OVERLAP) / (TILE - OVERLAP)));
  const room = Math.max(0, length - TILE);
  return Array.from({ length: count }, (_, i) => even((i * room) / Math.max(1, count - 1)));
}

function part(picture: Picture, left: number, top: number): Picture {
  const width = Math.min(TILE, picture.width - left);
  const height = Math.min(TILE, picture.height - top);
  if (width === picture.width && height === picture.height) return picture;
  const levels = new Uint8Array(3 * width * height);
  for (let row = 0; row < height; row++) {
    const from = 3 * ((top + row) * picture.width + left);
    levels.set(picture.levels.subarray(from, from + 3 * width), 3 * row * width);
  }
  return { width, height, levels };
}

/** The second step: the candidate as it looks upright. */
async function examined(
  picture: Picture,
  network: Network,
  candidate: Look,
): Promise<Look | undefined> {
  const turns = (degrees: number[], best: Look | undefined) =>
    bestTurn(picture, network, candidate, degrees, best);
  let best = await turns([0], undefined);
  if (!best || best.score < SURELY_UPRIGHT) {
    best = await turns([90, 180, 270], best);
    if (!best || best.score < HOPELESS) return undefined;
    if (best.score < SURELY_UPRIGHT) best = (await turns([45, 135, 225, 315], best))!;
  }
  for (let i = 0; i < LOOKS && Math.abs(degreesOf(best)) > LEVEL_DEGREES; i++) {
    const other = await lookAt(picture, network, ...placed(best), PATCH_FACE);
    if (!other || other.score < best.score - TURN_GAIN) break;
    best = other;
  }
  let points = best.points;
  const again = await lookAt(picture, network, ...placed(best), CLOSE_FACE);
  if (again) {
    points = points.map((point, k) => times(plus(point, again.points[k]!), 0.5));
    if (again.score > best.score) best = again;
  }
  const { across } = squareOf(best);
  points = points.map((point, k) => plus(point, product(TO_CONTRACT[k]!, across)));
  return { ...best, points };
}

/** The best look among some turns, in degrees, and the one that is there. */
async function bestTurn(
  picture: Picture,
  network: Network,
  candidate: Look,
  turns: number[],
  best: Look | undefined,
): Promise<Look | undefined> {
  for (const degrees of turns) {
    const angle = (degrees * Math.PI) / 180;
    const upright = product(candidate.upright, [Math.cos(angle), Math.sin(angle)]);
    const other = await lookAt(picture, network, candidate, upright, PATCH_FACE);
    if (other && (!best || other.score > best.score + TURN_GAIN)) best = other;
  }
  return best;
}

/** Where the landmarks say that the face is, and its upper edge's direction. */
function placed(look: Look): [Look, Position] {
  const square = squareOf(look);
  const width = FACE_OF_SQUARE * side(square);
  const centre = plus(square.corner, product(square.across, [0.5, 0.5]));
  const height = HEIGHT_OF_WIDTH * width;
  return [{ ...look, centre, width, height }, times(square.across, 1 / side(square))];
}

/** The face in the middle of a turned patch of the picture. */
async function lookAt(
  picture: Picture,
  network: Network,
  at: Look,
  upright: Position,
  width: number,
): Promise<Look | undefined> {
  const face = faceWidth(at);
  const length = (face * PATCH) / width;
  const across = times(upright, length);
  const corner = minus(at.centre, product(across, [0.5, 0.5]));
  const finer = Math.max(1, Math.min(even(length / PATCH), FINEST));
  const patch = scaled(
    sampled(picture, { corner, across }, finer * PATCH, "black"),
    1 / finer,
  );
  const all = await seen(patch, network, corner, times(across, 1 / PATCH), 1);
  const near = all.filter(
    (look) =>
      distance(look.centre, at.centre) < face / 2 &&
      face / 2 < faceWidth(look) &&
      faceWidth(look) < face * 2,
  );
  const [best] = near;
  if (!best) return undefined;
  const same = near.filter(
    (look) => distance(look.centre, best.centre) < faceWidth(best) / 2,
  );
  const total = same.reduce((sum, look) => sum + look.score, 0);
  const points = best.points.map((_, k) =>
    same.reduce<Position>(
      (sum, look) => plus(sum, times(look.points[k]!, look.score / total)),
      [0, 0],
    ),
  );
  return { ...best, points };
}

/**
 * Runs the network on a part of a picture; the best first.
 *
 * @param corner where the part's upper left corner lies in the picture.
 * @param step what one pixel to the right is in the picture.
 * @param mostOverlap of two boxes that share more of their area one is left out.
 */
async function seen(
  tile: Picture,
  network: Network,
  corner: Position,
  step: Position,
  mostOverlap: number,
): Promise<Look[]> {
  const length = Math.hypot(...step);
  const place = (point: Position) => plus(corner, product(step, point));
  const rows = await network(tile, CANDIDATE_SCORE, mostOverlap);
  return rows
    .filter(
      ({ width, height, points: [left, right] }) =>
        Math.min(width, height) >= 1 && distance(left!, right!) > 0,
    )
    .map(({ score, left, top, width, height, points }) => ({
      score,
      centre: place([left + width / 2, top + height / 2]),
      width: width * length,
      height: height * length,
      upright: times(step, 1 / length),
      points: points.map(place),
    }));
}

/** One look a face, the best first. */
function distinct(looks: Look[]): Look[] {
  const kept: Look[] = [];
  for (const look of [...looks].sort((a, b) => b.score - a.score)) {
    const isNew = kept.every((other) => {
      const reach = 0.4 * Math.max(faceWidth(look), faceWidth(other));
      return distance(look.centre, other.centre) > reach;
    });
    if (isNew) kept.push(look);
  }
  return kept;
}

/** Width of the face, from the area of the box: the steadier measure. */
function faceWidth({ width, height }: Look): number {
  return Math.sqrt((width * height) / HEIGHT_OF_WIDTH);
}

/** How far the landmarks are turned from how the part was. */
function degreesOf(look: Look): number {
  const [x, y] = product(squareOf(look).across, [look.upright[0], -look.upright[1]]);
  return (Math.atan2(y, x) * 180) / Math.PI;
}

/** Mean distance of the landmarks to the contract's, in sides of the square. */
function misplacement(look: Look): number {
  const square = squareOf(look);
  const sum = Object.values(CONTRACT).reduce((total, target, k) => {
    const expected = plus(square.corner, product(square.across, target));
    return total + distance(look.points[k]!, expected);
  }, 0);
  return sum / look.points.length / side(square);
}

/** Turns a picture clockwise by quarters. */
function turned(picture: Picture, quarters: number): Picture {
  if (!quarters) return picture;
  const { width, height, levels } = picture;
  const across = quarters % 2 ? height : width;
  const down = quarters % 2 ? width : height;
  const result = new Uint8Array(levels.length);
  for (let y = 0; y < down; y++) {
    for (let x = 0; x < across; x++) {
      const [fromX, fromY] = (
        [[x, y], [y, height - 1 - x], [width - 1 - x, height - 1 - y], [width - 1 - y, x]] as const
      )[quarters]!;
      const from = 3 * (fromY * width + fromX);
      result.set(levels.subarray(from, from + 3), 3 * (y * across + x));
    }
  }
  return { width: across, height: down, levels: result };
}

/** Shrinks a picture; each pixel is the mean of the area that it covers. */
export function scaled(picture: Picture, scale: number): Picture {
  const { width, height, levels } = picture;
  const [across, down] = [width, height].map((n) => Math.max(1, even(n * scale))) as [
    number,
    number,
  ];
  if (across === width && down === height) return picture;
  const columns = areas(width, across);
  const row = new Float32Array(3 * across);
  const result = new Uint8ClampedArray(3 * across * down);
  areas(height, down).forEach((parts, y) => {
    row.fill(0);
    for (const { at: sourceY, weight: weightY } of parts) {
      columns.forEach((cells, x) => {
        for (const { at, weight } of cells) {
          const from = 3 * (sourceY * width + at);
          row[3 * x]! += levels[from]! * weight * weightY;
          row[3 * x + 1]! += levels[from + 1]! * weight * weightY;
          row[3 * x + 2]! += levels[from + 2]! * weight * weightY;
        }
      });
    }
    result.set(row, 3 * y * across);
  });
  return { width: across, height: down, levels: new Uint8Array(result.buffer) };
}

/** Which source pixels make up each target pixel along a side, and their weights. */
function areas(length: number, target: number): { at: number; weight: number }[][] {
  const scale = length / target;
  return Array.from({ length: target }, (_, i) => {
    const [start, end] = [i * scale, Math.min((i + 1) * scale, length)];
    const cells: { at: number; weight: number }[] = [];
    for (let at = Math.floor(start); at < Math.ceil(end); at++) {
      const covered = Math.min(at + 1, end) - Math.max(at, start);
      // As OpenCV: a thousandth of a pixel counts as none.
      if (covered > 1e-3) cells.push({ at, weight: covered / (end - start) });
    }
    return cells;
  });
}

/** Rounds halves to the even neighbour, as Python does. */
function even(value: number): number {
  const below = Math.floor(value);
  const isHalf = value - below === 0.5;
  return isHalf ? below + (below % 2) : Math.round(value);
}

// Points of the plane as complex numbers.

function plus([a, b]: Position, [c, d]: Position): Position {
  return [a + c, b + d];
}

function minus([a, b]: Position, [c, d]: Position): Position {
  return [a - c, b - d];
}

function times([a, b]: Position, factor: number): Position {
  return [a * factor, b * factor];
}

/** Turns and scales a point by another. */
function product([a, b]: Position, [c, d]: Position): Position {
  return [a * c - b * d, a * d + b * c];
}

function distance([a, b]: Position, [c, d]: Position): number {
  return Math.hypot(a - c, b - d);
}
