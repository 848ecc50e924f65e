/** From a file or a camera's frame to an upright picture. */
import type { Picture } from "./crop";

/** Nothing of a face is left below this; as in preprocessing.py. */
const MIN_SIDE = 8;
/** What the smallest canvas of a common browser holds: 16 megapixels. */
const MAX_PIXELS = 4096 * 4096;

/** A picture that cannot be read; the message says why. */
export class PictureError extends Error {}

/** Decodes an image file, turned as its EXIF says, alpha over white. */
export async function decode(file: Blob): Promise<Picture> {
  let bitmap: ImageBitmap;
  try {
    // Levels as they are in the file: training read them without colour profiles.
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new PictureError(
      "This file is not a picture that the browser can read. Expected a JPEG, PNG or " +
        "WebP file; if it is one, it is damaged.",
    );
  }
  try {
    return grab(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

/** The pixels of what a canvas can draw; shrunk where it has too many. */
export function grab(
  source: CanvasImageSource,
  width: number,
  height: number,
): Picture {
  if (Math.min(width, height) < MIN_SIDE) {
    throw new PictureError(
      `Expected a picture with sides of at least ${MIN_SIDE} pixels; this one has ` +
        `${width} × ${height}.`,
    );
  }
  const shrink = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.floor(width * shrink);
  canvas.height = Math.floor(height * shrink);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const levels = new Uint8Array((3 * data.length) / 4);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    levels[to] = data[from]!;
    levels[to + 1] = data[from + 1]!;
    levels[to + 2] = data[from + 2]!;
  }
  return { width: canvas.width, height: canvas.height, levels };
}

/** A canvas with a picture on it. */
export function draw(picture: Picture): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  const { width, height, levels } = picture;
  Object.assign(canvas, { width, height });
  const data = new ImageData(width, height);
  for (let from = 0, to = 0; from < levels.length; from += 3, to += 4) {
    data.data.set(levels.subarray(from, from + 3), to);
    data.data[to + 3] = 255;
  }
  canvas.getContext("2d")!.putImageData(data, 0, 0);
  return canvas;
}
