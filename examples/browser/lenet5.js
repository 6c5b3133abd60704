/** LeNet-5 in plain JavaScript: layers over Float32Array, and the network whose tensors are in a `.dc` file. */

/** Convolution without padding: `input` is [channels][size][size], the result [filters][size − k + 1][same]. */
export function convolve(input, size, weight, bias, channels, k) {
  const out = size - k + 1;
  const result = new Float32Array(bias.length * out * out);
  for (let filter = 0; filter < bias.length; filter++) {
    const plane = result.subarray(filter * out * out, (filter + 1) * out * out).fill(bias[filter]);
    for (let i = 0; i < channels * k * k; i++) {
      const value = weight[filter * channels * k * k + i];
      if (!value) continue; // pruned
      const start = Math.floor(i / (k * k)) * size * size + Math.floor((i % (k * k)) / k) * size + (i % k);
      for (let y = 0; y < out; y++) {
        for (let x = 0; x < out; x++) plane[y * out + x] += value * input[start + y * size + x];
      }
    }
  }
  return result;
}

/** The largest of each 2 × 2 elements of planes of `size` × `size`. */
export function pool(input, size) {
  const half = size / 2;
  return Float32Array.from({ length: input.length / 4 }, (_, i) => {
    const at = Math.floor(i / half) * 2 * size + (i % half) * 2;
    return Math.max(input[at], input[at + 1], input[at + size], input[at + size + 1]);
  });
}

export function linear(input, weight, bias) {
  return bias.map((start, row) => {
    let sum = start;
    for (let i = 0; i < input.length; i++) sum += weight[row * input.length + i] * input[i];
    return sum;
  });
}

export const relu = (input) => input.map((value) => Math.max(0, value));

export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((all, power) => all + power, 0);
  return powers.map((power) => power / sum);
}

/** The network of an opened file, as a function: 28 × 28 grey values from 0 to 1 become the logits of ten digits. */
export function lenet5(file) {
  const names = ["conv1", "conv2", "fc1", "fc2"].flatMap((layer) => [`${layer}.weight`, `${layer}.bias`]);
  const [w1, b1, w2, b2, w3, b3, w4, b4] = names.map((name) => file.get(name));
  const [mean, deviation] = [0.130575, 0.308005]; // of the pixels that it was trained on
  return (pixels) => {
    const image = Float32Array.from(pixels, (value) => (value - mean) / deviation);
    const first = pool(convolve(image, 28, w1, b1, 1, 5), 24);
    const second = pool(convolve(first, 12, w2, b2, 20, 5), 8);
    return linear(relu(linear(second, w3, b3)), w4, b4);
  };
}
