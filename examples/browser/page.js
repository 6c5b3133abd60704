/** The page: strokes on the pad become an image, and the network says what it is. */
import { open } from "../../readers/js/deepcompress.js";
import { DIGITS, toPixels } from "./drawing.js";
import { lenet5, softmax } from "./lenet5.js";

const MODEL = "../../results/lenet5-2kb-seed0.dc";
const [about, pad, answer, bars, samples] = ["about", "pad", "answer", "bars", "samples"].map((id) => document.getElementById(id));
const context = pad.getContext("2d");
let classify;
let strokes = [];

function redraw() {
  context.clearRect(0, 0, 280, 280);
  Object.assign(context, { lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...stroke[0]);
    for (const point of stroke) context.lineTo(...point);
    context.stroke();
  }
}

function ask() {
  if (!classify) return;
  const start = performance.now();
  const chances = strokes.length ? softmax(classify(toPixels(strokes))) : new Float32Array(10);
  const time = performance.now() - start;
  const best = chances.indexOf(Math.max(...chances));
  [...bars.children].forEach((item, digit) => {
    item.className = strokes.length && digit === best ? "best" : "";
    item.querySelector("i").style.width = `${100 * chances[digit]}%`;
    item.lastChild.textContent = `${(100 * chances[digit]).toFixed(1)} %`;
  });
  if (!strokes.length) answer.textContent = "Draw on the black square.";
  else answer.innerHTML = `That is a <b>${best}</b>, said in ${time.toFixed(1)} ms.`;
}

function show(drawn) {
  strokes = drawn;
  redraw();
  ask();
}

function place({ clientX, clientY }) {
  const box = pad.getBoundingClientRect();
  return [((clientX - box.left) * 280) / box.width, ((clientY - box.top) * 280) / box.height];
}

pad.addEventListener("pointerdown", (event) => {
  pad.setPointerCapture(event.pointerId);
  strokes.push([place(event)]);
  redraw();
});
pad.addEventListener("pointermove", (event) => {
  if (!pad.hasPointerCapture(event.pointerId)) return;
  strokes.at(-1).push(place(event));
  redraw();
});
pad.addEventListener("pointerup", ask);
document.getElementById("clear").addEventListener("click", () => show([]));

const sample = (digit) => show(DIGITS[digit].map((stroke) => stroke.map((point) => point.map((value) => 280 * value))));
DIGITS.forEach((_, digit) => {
  const item = document.createElement("li");
  item.innerHTML = `<b>${digit}</b><span><i></i></span><span></span>`;
  bars.append(item);
  const button = document.createElement("button");
  button.textContent = digit;
  button.addEventListener("click", () => sample(digit));
  samples.append(button);
});

try {
  const answered = await fetch(MODEL);
  if (!answered.ok) throw new Error(`${MODEL}: ${answered.status} ${answered.statusText}`);
  const file = open(await answered.arrayBuffer());
  classify = lenet5(file);
  about.textContent = `LeNet-5 with 431,080 weights, in a file of ${file.byteLength.toLocaleString("en-US")} bytes. It has learned from MNIST, and runs here.`;
  const digit = Number(location.hash.slice(1) || NaN);
  if (digit in DIGITS) sample(digit);
  else ask();
} catch (error) {
  about.textContent = `The network cannot be read: ${error.message}. Serve the root of the repository: python -m http.server`;
}
