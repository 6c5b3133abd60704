/** Drawings as MNIST has them: strokes of a pen, in a box of 20 × 20 pixels whose centre of mass is in the middle of 28 × 28. */

/** A stroke for each line of a digit, as x, y from 0 to 1. */
export const DIGITS = [
  [[[0.5, 0.1], [0.3, 0.2], [0.22, 0.5], [0.3, 0.8], [0.5, 0.9], [0.7, 0.8], [0.78, 0.5], [0.7, 0.2], [0.5, 0.1]]],
  [[[0.5, 0.1], [0.5, 0.9]]],
  [[[0.25, 0.25], [0.4, 0.12], [0.6, 0.12], [0.72, 0.28], [0.6, 0.5], [0.25, 0.88], [0.78, 0.88]]],
  [[[0.25, 0.15], [0.6, 0.12], [0.72, 0.28], [0.6, 0.45], [0.42, 0.48]], [[0.42, 0.48], [0.68, 0.56], [0.74, 0.74], [0.58, 0.88], [0.25, 0.86]]],
  [[[0.3, 0.12], [0.25, 0.52], [0.75, 0.52]], [[0.68, 0.2], [0.66, 0.9]]],
  [[[0.72, 0.12], [0.35, 0.12], [0.3, 0.45], [0.58, 0.45], [0.72, 0.62], [0.62, 0.84], [0.28, 0.88]]],
  [[[0.62, 0.1], [0.38, 0.38], [0.28, 0.66], [0.38, 0.88], [0.6, 0.88], [0.7, 0.7], [0.58, 0.54], [0.34, 0.6]]],
  [[[0.22, 0.14], [0.76, 0.14], [0.46, 0.9]]],
  [[[0.66, 0.2], [0.46, 0.12], [0.34, 0.24], [0.44, 0.42], [0.6, 0.54], [0.68, 0.74], [0.52, 0.88], [0.34, 0.76], [0.42, 0.56], [0.6, 0.42], [0.66, 0.2]]],
  [[[0.7, 0.26], [0.5, 0.12], [0.32, 0.26], [0.4, 0.46], [0.62, 0.46], [0.7, 0.26], [0.66, 0.6], [0.58, 0.9]]],
];

const PEN = 1.1; // radius of the pen in pixels of the result

/** 28 × 28 grey values from 0 to 1 of strokes, each a list of points [x, y] in any unit. */
export function toPixels(strokes) {
  const points = strokes.flat();
  const pixels = new Float32Array(28 * 28);
  if (!points.length) return pixels;
  const [low, high] = [Math.min, Math.max].map((pick) => [0, 1].map((axis) => pick(...points.map((point) => point[axis]))));
  const scale = 17.8 / Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
  const scaled = strokes.map((stroke) => stroke.map((point) => point.map((value, axis) => (value - low[axis]) * scale)));
  const image = ink(scaled, [0, 0]);
  const mass = image.reduce((sum, value) => sum + value, 0);
  const centre = [0, 1].map((axis) =>
    image.reduce((sum, value, i) => sum + value * (axis ? Math.floor(i / 28) : i % 28), 0) / mass);
  return ink(scaled, centre.map((value) => 13.5 - value));
}

/** The ink in each pixel: full within the pen's radius of a stroke, and less up to a pixel further. */
function ink(strokes, [right, down]) {
  return Float32Array.from({ length: 28 * 28 }, (_, i) => {
    const [x, y] = [(i % 28) - right, Math.floor(i / 28) - down];
    let nearest = Infinity;
    for (const stroke of strokes) {
      stroke.forEach((point, at) => {
        nearest = Math.min(nearest, distance(x, y, stroke[Math.max(0, at - 1)], point));
      });
    }
    return Math.min(1, Math.max(0, PEN + 0.5 - nearest));
  });
}

function distance(x, y, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const along = Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
}
