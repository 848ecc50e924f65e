/**
 * What a .tflite file of export.py says about itself: a ZIP archive behind the
 * network with `description.json`, as hydranet_tf/inference/export_metadata.py writes it.
 */
import { strFromU8, unzipSync } from "fflate";

const DESCRIPTION = "description.json";

/** A file that is not a usable model; the message says why and what to do. */
export class ModelError extends Error {}

export interface Task {
  name: string;
  kind: "regression" | "binary" | "categorical";
  unit: string;
  classes: string[];
  low: number;
  high: number;
  /** Of a regression; "distribution" predicts an interval too. */
  head?: string;
}

/** A point as fractions of a square's side, from its left and top. */
export type Point = readonly [number, number];

/** Where the parts of a face lie in its crop, in the viewer's left and right. */
export type Contract = Readonly<
  Record<"left_eye" | "right_eye" | "nose" | "mouth_left" | "mouth_right", Point>
>;

export interface Tensor {
  shape: number[];
  dtype: string;
  scale?: number;
  zero_point?: number;
}

export interface Description {
  tasks: Task[];
  image_size: number;
  face: { points: Contract };
  variant: string;
  signature: string;
  inputs: { images: Tensor };
  outputs: Record<string, Tensor>;
  network: { bytes: number; sha256: string };
}

/** The names of a task's outputs: its own, then the ends of its interval. */
export function outputsOf(task: Task): string[] {
  const ends = task.head === "distribution" ? ["_low", "_high"] : [];
  return ["", ...ends].map((ending) => task.name + ending);
}

/**
 * Reads and checks the description of a model.
 *
 * @param content the whole .tflite file.
 * @throws ModelError if there is none, it lacks something, or the network is not
 *     the one it describes.
 */
export async function read(content: Uint8Array): Promise<Description> {
  let files: Record<string, Uint8Array>;
  try {
    files = unzipSync(content, { filter: (file) => file.name === DESCRIPTION });
  } catch {
    files = {};
  }
  const text = files[DESCRIPTION];
  if (!text) {
    throw new ModelError(
      "This file does not say what it predicts: expected a .tflite file made by " +
        `export.py, with ${DESCRIPTION} at its end. It was cut short, or made by ` +
        "something else. Copy it again, or export again.",
    );
  }
  const description = parse(strFromU8(text));
  await check(content, description.network);
  return description;
}

function parse(text: string): Description {
  let found: Partial<Description>;
  try {
    found = JSON.parse(text) as Partial<Description>;
  } catch {
    throw damaged("JSON");
  }
  const complete =
    Array.isArray(found?.tasks) &&
    Number.isInteger(found.image_size) &&
    Array.isArray(found.face?.points?.left_eye) &&
    found.inputs?.images &&
    found.outputs &&
    found.network?.sha256;
  if (!complete) {
    throw damaged("tasks, image_size, face, inputs, outputs and network");
  }
  return found as Description;
}

function damaged(what: string): ModelError {
  return new ModelError(
    `Expected ${DESCRIPTION} in this file to hold ${what}, as export.py writes it. ` +
      "Export the model again.",
  );
}

async function check(content: Uint8Array, network: Description["network"]) {
  // A copy: digests are not taken of memory that threads may share.
  const bytes = new Uint8Array(content.slice(0, network.bytes));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== network.sha256) {
    throw new ModelError(
      "This file is damaged: its network is not the one that its description was " +
        "written for (their SHA-256 differ). Copy it again, or export again.",
    );
  }
}
