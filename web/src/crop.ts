/**
 * Crops a face out of a picture as hydranet_tf/data/crops.py does, and brings it to the
 * network's size as hydranet_tf/data/graph_decoding.py does.
 */

/** Rows of pixels, three levels 0..255 each: red, green, blue. */
export interface Picture {
  width: number;
  height: number;
  levels: Uint8Array;
}

/** In pixels of the picture, x to the right, y down. */
export type Position = readonly [number, number];

/** A turned square: its upper left corner, and its upper edge from there. */
export interface Square {
  corner: Position;
  across: Position;
}

/** The largest crop that is taken before the resize, as in crops.py. */
const LARGEST_CROP = 2048;

export function side(square: Square): number {
  return Math.hypot(...square.across);
}

/** The four corners, clockwise from the upper left. */
export function corners({ corner: [x, y], across: [dx, dy] }: Square): Position[] {
  return [
    [x, y],
    [x + dx, y + dy],
    [x + dx - dy, y + dy + dx],
    [x - dy, y + dx],
  ];
}

/**
 * The square in which points come to where they shall be: the similarity
 * transform (turn, scale, shift) of least squares.
 *
 * @param found in pixels of the picture.
 * @param target the same points as fractions of the square's side.
 */
export function locate(found: Position[], target: Position[]): Square {
  const [fx, fy] = mean(found);
  const [tx, ty] = mean(target);
  // As complex numbers found = across * target + corner: a linear regression.
  let real = 0;
  let imaginary = 0;
  let squares = 0;
  target.forEach(([x, y], i) => {
    const [a, b] = [x - tx, y - ty];
    const [c, d] = [found[i]![0] - fx, found[i]![1] - fy];
    real += a * c + b * d;
    imaginary += a * d - b * c;
    squares += a * a + b * b;
  });
  const [dx, dy] = [real / squares, imaginary / squares];
  return {
    corner: [fx - (dx * tx - dy * ty), fy - (dx * ty + dy * tx)],
    across: [dx, dy],
  };
}

function mean(points: Position[]): Position {
  const sum = points.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0]);
  return [sum[0] / points.length, sum[1] / points.length];
}

/** Crops a square; beyond the picture its edge is repeated. */
export function crop(picture: Picture, square: Square, size: number): Picture {
  // As many whole pixels for each of the result's as keep the picture's
  // resolution; then the resize that every image takes.
  const finest = Math.floor(LARGEST_CROP / size);
  const finer = Math.max(1, Math.min(Math.ceil(side(square) / size), finest));
  return resize(sampled(picture, square, size * finer), size);
}

/**
 * The pixels of a square, by bilinear interpolation.
 *
 * @param n how many to a side.
 * @param beyond what lies beyond the picture: its edge, or black.
 */
export function sampled(
  picture: Picture,
  square: Square,
  n: number,
  beyond: "edge" | "black" = "edge",
): Picture {
  const [stepX, stepY] = [square.across[0] / n, square.across[1] / n];
  const levels = new Uint8ClampedArray(3 * n * n);
  const { width, height, levels: source } = picture;
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < n; column++) {
      // Pixel j of the result is centred at (j + 0.5) / n of its side.
      const [i, j] = [column + 0.5, row + 0.5];
      const x = square.corner[0] + stepX * i - stepY * j - 0.5;
      const y = square.corner[1] + stepY * i + stepX * j - 0.5;
      const [left, top] = [Math.floor(x), Math.floor(y)];
      let [right, below] = [x - left, y - top];
      let [nearX, nearY] = [1 - right, 1 - below];
      if (beyond === "black") {
        if (left < 0 || left >= width) nearX = 0;
        if (left < -1 || left >= width - 1) right = 0;
        if (top < 0 || top >= height) nearY = 0;
        if (top < -1 || top >= height - 1) below = 0;
      }
      const x0 = 3 * Math.min(Math.max(left, 0), width - 1);
      const x1 = 3 * Math.min(Math.max(left + 1, 0), width - 1);
      const y0 = 3 * Math.min(Math.max(top, 0), height - 1) * width;
      const y1 = 3 * Math.min(Math.max(top + 1, 0), height - 1) * width;
      const target = 3 * (row * n + column);
      for (let channel = 0; channel < 3; channel++) {
        const upper =
          source[y0 + x0 + channel]! * nearX + source[y0 + x1 + channel]! * right;
        const lower =
          source[y1 + x0 + channel]! * nearX + source[y1 + x1 + channel]! * right;
        levels[target + channel] = upper * nearY + lower * below;
      }
    }
  }
  return { width: n, height: n, levels: new Uint8Array(levels.buffer) };
}

/** The largest centred square: what a picture that is a face already gives. */
export function centred(picture: Picture): Picture {
  const { width, height } = picture;
  const n = Math.min(width, height);
  const [left, top] = [Math.floor((width - n) / 2), Math.floor((height - n) / 2)];
  const levels = new Uint8Array(3 * n * n);
  for (let row = 0; row < n; row++) {
    const start = 3 * ((top + row) * width + left);
    levels.set(picture.levels.subarray(start, start + 3 * n), 3 * row * n);
  }
  return { width: n, height: n, levels };
}

/**
 * Resizes a square picture: bilinear with antialiasing (the filter widens as the
 * picture shrinks), rounded to whole levels at the end.
 *
 * Down, then across, every step rounded to 32 bits, ties to even: the very sums of
 * tf.image.resize. When a picture shrinks by half, ties are common.
 */
export function resize(square: Picture, size: number): Picture {
  const n = square.width;
  const weights = Array.from({ length: size }, (_, i) => weightsOf(i, n, size));
  const down = new Float32Array(3 * size * n);
  weights.forEach(({ first, fractions }, y) => {
    const row = down.subarray(3 * y * n, 3 * (y + 1) * n);
    fractions.forEach((fraction, k) => {
      const from = 3 * (first + k) * n;
      for (let x = 0; x < row.length; x++) {
        row[x]! += Math.fround(fraction * square.levels[from + x]!);
      }
    });
  });
  const levels = new Uint8ClampedArray(3 * size * size);
  const sum = new Float32Array(3);
  for (let y = 0; y < size; y++) {
    weights.forEach(({ first, fractions }, x) => {
      sum.fill(0);
      fractions.forEach((fraction, k) => {
        const from = 3 * (y * n + first + k);
        for (let channel = 0; channel < 3; channel++) {
          sum[channel]! += Math.fround(fraction * down[from + channel]!);
        }
      });
      // A clamped array rounds ties to even.
      levels.set(sum, 3 * (y * size + x));
    });
  }
  return { width: size, height: size, levels: new Uint8Array(levels.buffer) };
}

/**
 * The first source pixel that makes up target pixel `i`, and the fractions of it and
 * its followers: a triangle as wide as the picture shrinks.
 */
function weightsOf(i: number, n: number, size: number) {
  const f = Math.fround;
  const scale = f(1 / f(size / n));
  const radius = Math.max(scale, 1);
  const centre = f((i + 0.5) * scale);
  const first = Math.max(0, Math.ceil(f(f(centre - radius) - 0.5)));
  const last = Math.min(n - 1, Math.floor(f(f(centre + radius) - 0.5)));
  const narrow = f(1 / radius);
  const fractions = Float32Array.from({ length: last - first + 1 }, (_, k) => {
    const distance = Math.abs(f(first + k + 0.5 - centre));
    return Math.max(0, f(1 - f(distance * narrow)));
  });
  const sum = fractions.reduce((a, b) => f(a + b), 0);
  const fraction = f(1 / sum);
  return { first, fractions: fractions.map((one) => one * fraction) };
}
