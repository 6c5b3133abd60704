// The page of `deepcompress view`. `reader` is the JavaScript reader; everything that is shown comes from its answers.

const LARGE = 4e6; // elements that are only decoded when somebody asks for it
const MOST_AREAS = 300;
const MOST_ROWS = 1000; // of a table, and so many figures: more of them take a browser seconds and nobody reads them
const number = (value) => value.toLocaleString("en-US");
const percent = (part, whole, digits = 1) => (whole ? `${((100 * part) / whole).toFixed(digits)} %` : "–");
const isFloat = (dtype) => /^b?float(?!4)/.test(dtype);

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

// Facts of a file -------------------------------------------------------------------------------------------

const PARTS = ["weights", "offsets", "codebook", "tables", "plain", "header"];
const PART_NAMES = {
  weights: "weights", offsets: "offsets", codebook: "codebooks", tables: "tables", plain: "tensors that are not coded",
  header: "header and checksum", others: "all parts",
};

const WIDTHS = {
  int8: 1, uint8: 1, bool: 1, int16: 2, uint16: 2, int32: 4, uint32: 4, int64: 8, uint64: 8, complex32: 4, complex64: 8,
  complex128: 16, float4_e2m1fn_x2: 1, float8_e8m0fnu: 1,
};

/** Bytes of the dense network: 4 for a floating-point element, and tied tensors once. */
const denseBytes = ({ dtype, size, encoding }) => (encoding === "alias" ? 0 : size * (WIDTHS[dtype] ?? 4));

function factsOf(name, bytes, stages) {
  const file = reader.open(bytes);
  const tensors = file.names.map((each) => file.info(each));
  const dense = tensors.reduce((sum, tensor) => sum + denseBytes(tensor), 0);
  const sections = Object.fromEntries(PARTS.map((part) => [part, 0]));
  sections.header = file.byteLength;
  for (const tensor of tensors) {
    for (const [part, count] of partsOf(tensor)) sections[part] += count;
    sections.header -= tensor.storedBytes;
  }
  return { name, file, tensors, dense, sections, stages };
}

/** Bytes of a tensor by part. */
function partsOf({ parts, storedBytes }) {
  return Object.entries(parts ?? { plain: storedBytes }).filter(([, count]) => count);
}

// Treemap ---------------------------------------------------------------------------------------------------

/** Squarified treemap (Bruls, Huizing, van Wijk 2000): `items` are [item, size], and each gets a rectangle. */
function squarify(items, x, y, width, height) {
  const sorted = items.filter(([, size]) => size > 0).sort((a, b) => b[1] - a[1]);
  let total = sorted.reduce((sum, [, size]) => sum + size, 0);
  const placed = [];
  for (let start = 0; start < sorted.length; ) {
    const short = Math.min(width, height);
    const scale = (width * height) / total;
    let end = start;
    let [sum, worst] = [0, Infinity];
    for (; end < sorted.length; end++) {
      const next = sum + sorted[end][1];
      const side = (next * scale) / short;
      const ratios = [sorted[start][1], sorted[end][1]].map((size) => (size * scale) / side / side);
      const ratio = Math.max(...ratios.map((each) => Math.max(each, 1 / each)));
      if (ratio > worst) break;
      [sum, worst] = [next, ratio];
    }
    const side = (sum * scale) / short;
    let along = 0;
    for (const [item, size] of sorted.slice(start, end)) {
      const length = (size / sum) * short;
      placed.push(width > height ? [item, x, y + along, side, length] : [item, x + along, y, length, side]);
      along += length;
    }
    if (width > height) [x, width] = [x + side, width - side];
    else [y, height] = [y + side, height - side];
    total -= sum;
    start = end;
  }
  return placed;
}

function rectangle([label, x, y, width, height], className, text = label) {
  const made = element("div", { className, title: label }, width > 6 && height > 8 ? text : "");
  Object.assign(made.style, { left: `${x}%`, top: `${y}%`, width: `${width}%`, height: `${height}%` });
  return made;
}

const bySize = (tensors) => [...tensors].sort((a, b) => b.storedBytes - a.storedBytes);

/** The largest tensors, and all others as one: more areas than that nobody can see. */
function largest(tensors) {
  const sorted = bySize(tensors);
  const others = sorted.slice(MOST_AREAS);
  if (!others.length) return sorted;
  const storedBytes = others.reduce((sum, tensor) => sum + tensor.storedBytes, 0);
  const name = `${number(others.length)} smaller tensors`;
  return [...sorted.slice(0, MOST_AREAS), { name, storedBytes, parts: { others: storedBytes } }];
}

function treemap({ tensors, sections, file }) {
  const map = element("div", { className: "treemap", role: "img" });
  map.setAttribute("aria-label", "Bytes of each tensor as areas; the table of tensors has the numbers.");
  const header = { name: "header", parts: { header: sections.header }, storedBytes: sections.header };
  const groups = [...largest(tensors), header].map((tensor) => [tensor, tensor.storedBytes]);
  for (const [tensor, ...box] of squarify(groups, 0, 0, 100, 100)) {
    const group = rectangle([tensor.name, ...box], "group", "");
    const bytes = partsOf(tensor).reduce((sum, [, count]) => sum + count, 0);
    const [, , width, height] = box;
    for (const [part, x, y, w, h] of squarify(partsOf(tensor), 0, 0, width, height)) {
      const place = [(x / width) * 100, (y / height) * 100, (w / width) * 100, (h / height) * 100];
      const label = `${tensor.name}, ${PART_NAMES[part]}: ${number(partsOf(tensor).find(([each]) => each === part)[1])} bytes`;
      const first = !group.childElementCount && width > 7 && height > 8;
      group.append(rectangle([label, ...place], part, first ? `${tensor.name} ${percent(bytes, file.byteLength)}` : ""));
    }
    map.append(group);
  }
  return map;
}

function key(sections) {
  const entries = PARTS.filter((part) => sections[part]);
  return element("ul", { className: "key" }, ...entries.map((part) =>
    element("li", {}, element("span", { className: part }), PART_NAMES[part])));
}

// Tables ----------------------------------------------------------------------------------------------------

/** A table that scrolls, with the keyboard too; the first cell of each row is its heading. */
function table(caption, headings, rows, className = "") {
  const head = element("tr", {}, ...headings.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...rest]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((cell) => element("td", {}, cell))));
  const made = element("table", { className }, element("thead", {}, head), element("tbody", {}, ...body));
  made.setAttribute("aria-label", caption);
  const around = element("div", { className: "scroll", tabIndex: 0, role: "region" }, made);
  around.setAttribute("aria-label", caption);
  return around;
}

const HEADINGS = ["Tensor", "Shape", "Kept", "Bits", "Idx bits", "Fillers", "Weights", "Offsets", "Book", "Tables", "Bytes", "Rate"];

function tensorRow(tensor) {
  const { name, alias, shape, size, nonzeros, codebookSize, offsetBits, fillers, parts, storedBytes, encoding } = tensor;
  const bytes = [number(storedBytes), percent(storedBytes, denseBytes(tensor))];
  const start = [alias ? `${name} = ${alias}` : name, shape.join("×") || "scalar"];
  if (!parts) return [...start, ...new Array(8).fill(""), ...bytes];
  const alphabet = encoding === "adaptive" || offsetBits ? codebookSize : codebookSize + 1;
  const plain = encoding === "ranks" ? "–" : 8 * ({ float64: 8, float32: 4, float16: 2, bfloat16: 2 }[tensor.dtype] ?? 1);
  const width = codebookSize ? Math.max(1, Math.ceil(Math.log2(alphabet))) : plain;
  const each = (count) => (nonzeros ? ((8 * count) / nonzeros).toFixed(2) : "–");
  return [
    ...start,
    percent(nonzeros, size),
    `${width}→${each(parts.weights)}`,
    offsetBits ? `${offsetBits}→${each(parts.offsets)}` : "–",
    number(fillers), number(parts.weights), number(parts.offsets), number(parts.codebook), number(parts.tables), ...bytes,
  ];
}

function sectionsTable({ sections, file }) {
  const rows = PARTS.filter((part) => sections[part]).map((part) =>
    [PART_NAMES[part], number(sections[part]), percent(sections[part], file.byteLength)]);
  rows.push(["file", number(file.byteLength), "100.0 %"]);
  return table("Bytes by section", ["Section", "Bytes", "of file"], rows);
}

function stagesTable({ stages, dense }) {
  const rows = [["dense", dense], ...stages].map(([name, bytes]) => {
    const bar = element("i");
    bar.style.width = `${(100 * bytes) / dense}%`;
    return [name, number(Math.round(bytes)), `${(dense / bytes).toFixed(1)}×`, bar];
  });
  return table("Bytes after each stage", ["Stage", "Bytes", "Ratio", "Size"], rows, "stages");
}

// Pictures of a layer ---------------------------------------------------------------------------------------

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function canvas(className, width, height, label) {
  const made = element("canvas", { className, width, height, role: "img" });
  made.setAttribute("aria-label", label);
  return made;
}

/** Values that are not zero in 61 bars, and the shared values as marks below. */
function histogram(values, codebook) {
  let [low, high, count] = [Infinity, -Infinity, 0];
  for (const value of values) {
    if (!value || !Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
    count++;
  }
  if (!count) return element("p", { className: "dim" }, "Every element is zero.");
  const bars = new Float64Array(61);
  const scale = high > low ? 60 / (high - low) : 0;
  for (const value of values) if (value && Number.isFinite(value)) bars[Math.round((value - low) * scale)]++;
  const marks = codebook ? `, and ${number(codebook.length)} shared values` : "";
  const range = `${low.toPrecision(3)} to ${high.toPrecision(3)}`;
  const made = canvas("histogram", 610, 170, `Histogram of ${number(count)} values from ${range}${marks}`);
  const context = made.getContext("2d");
  const most = Math.max(...bars);
  context.fillStyle = color("weights");
  bars.forEach((bar, i) => context.fillRect(10 * i + 1, 150 - (146 * bar) / most, 8, (146 * bar) / most));
  context.fillStyle = color("text");
  for (const value of codebook ?? []) context.fillRect(5 + 10 * (value - low) * scale - 1, 154, 2, 14);
  return element("div", {}, made, element("p", { className: "dim" }, `${range}${marks}`));
}

/** Rows × columns of a tensor as its picture has them: outputs down, everything else across; vectors are wrapped. */
function matrix({ shape, size }) {
  if (shape.length > 1) return [shape[0], size / shape[0]];
  const columns = Math.ceil(Math.sqrt(4 * size));
  return [Math.ceil(size / columns), columns];
}

/** Where the weights lie: each pixel is as strong as the part of its elements that is not zero, in the colour of their sign. */
function places(values, tensor) {
  const [rows, columns] = matrix(tensor);
  const [height, width] = [Math.min(rows, 240), Math.min(columns, 480)];
  const [plus, minus] = [new Float64Array(width * height), new Float64Array(width * height)];
  for (let i = 0; i < values.length; i++) {
    if (!values[i]) continue;
    const at = Math.floor((Math.floor(i / columns) * height) / rows) * width + Math.floor(((i % columns) * width) / columns);
    (values[i] > 0 ? plus : minus)[at]++;
  }
  const label = `Where the weights lie: ${number(rows)} rows and ${number(columns)} columns`;
  const made = canvas("places", width, height, label);
  const context = made.getContext("2d");
  const pixels = context.createImageData(width, height);
  const colors = ["positive", "negative"].map((name) => color(name).match(/[0-9a-f]{2}/gi).map((hex) => parseInt(hex, 16)));
  const full = Math.max(1, (rows * columns) / (width * height));
  plus.forEach((count, at) => {
    const share = Math.min(1, (count + minus[at]) / full);
    pixels.data.set([...colors[count >= minus[at] ? 0 : 1], share && 40 + 215 * share], 4 * at);
  });
  context.putImageData(pixels, 0, 0);
  return element("div", {}, made, element("p", { className: "dim" }, `${number(rows)} × ${number(columns)}: positive values blue, negative ones orange, zeros blank`));
}

function draw(figure, file, tensor) {
  const caption = figure.firstChild;
  try {
    const values = file.get(tensor.name);
    const codebook = tensor.codebookSize ? file.shared(tensor.name).codebook : null;
    figure.replaceChildren(caption, histogram(values, codebook), places(values, tensor));
  } catch (error) {
    figure.replaceChildren(caption, element("p", {}, sentence(error)));
  }
}

const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    setTimeout(target.draw);
  }
}, { rootMargin: "200px" });

/** A figure that is drawn when it comes into view, or when asked if that takes long. */
function layerFigure(file, tensor) {
  const kept = tensor.parts ? `, ${percent(tensor.nonzeros, tensor.size)} kept` : "";
  const about = element("p", { className: "dim" }, `${tensor.shape.join("×")} ${tensor.dtype}${kept}, ${number(tensor.storedBytes)} bytes`);
  const figure = element("figure", {}, element("figcaption", {}, element("h4", {}, tensor.name), about));
  figure.draw = () => draw(figure, file, tensor);
  if (tensor.size > LARGE) figure.append(element("button", { onclick: figure.draw }, `Decode ${number(tensor.size)} elements`));
  else watcher.observe(figure);
  return figure;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const drawn of document.querySelectorAll("figure:has(canvas)")) drawn.draw();
});

// The page --------------------------------------------------------------------------------------------------

/** What `make` makes of tensors; of the largest ones, in the order of the file, where there are too many. */
function bounded(tensors, make) {
  if (tensors.length <= MOST_ROWS) return [make(tensors)];
  const kept = new Set(bySize(tensors).slice(0, MOST_ROWS));
  const note = `The ${number(MOST_ROWS)} largest of ${number(tensors.length)} tensors are shown.`;
  return [element("p", { className: "dim" }, note), make(tensors.filter((tensor) => kept.has(tensor)))];
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function show(facts) {
  const { name, file, tensors, dense } = facts;
  const coded = tensors.filter(({ parts }) => parts);
  const [kept, all] = ["nonzeros", "size"].map((each) => coded.reduce((sum, tensor) => sum + tensor[each], 0));
  const drawn = tensors.filter(({ dtype, size, alias }) => isFloat(dtype) && size > 1 && !alias);
  const named = [`format ${file.version}`, `network ${file.network || "not named"}`, `data ${file.data || "not named"}`];
  const weights = all ? [`${percent(kept, all, 2)} of ${number(all)} weights kept`] : [];
  return element("article", {},
    element("h2", {}, name),
    element("p", { className: "big" }, element("b", {}, number(file.byteLength)), ` bytes, ${(dense / file.byteLength).toFixed(1)}× smaller than ${number(dense)} bytes of dense fp32`),
    element("p", { className: "dim" }, [...named, ...weights].join(", ")),
    section("Where the bytes are", treemap(facts), key(facts.sections)),
    ...(facts.stages.length ? [section("Stages", stagesTable(facts))] : []),
    section("Sections", sectionsTable(facts)),
    section("Tensors", ...bounded(tensors, (some) => table(`Tensors of ${name}`, HEADINGS, some.map(tensorRow)))),
    section("Layers", ...bounded(drawn, (some) =>
      element("div", { className: "layers" }, ...some.map((tensor) => layerFigure(file, tensor))))),
  );
}

const sentence = (error) =>
  error instanceof reader.FormatError ? `This file is damaged, or it is no .dc file: ${error.message}.` : `This file cannot be shown: ${error.message}.`;

/** Show files, each [name, bytes, stages]; one that is bad leaves the page as it was, and a sentence. */
function showAll(files) {
  const message = document.getElementById("message");
  const shown = [];
  for (const [name, bytes, stages] of files) {
    try {
      shown.push(show(factsOf(name, bytes, stages)));
    } catch (error) {
      message.textContent = `${name}: ${sentence(error)}`;
      return;
    }
  }
  message.textContent = "";
  const main = document.getElementById("models");
  main.className = shown.length > 1 ? "two" : "";
  main.replaceChildren(...shown);
}

async function take(list) {
  const files = [...list].slice(0, 2);
  const read = files.map(async (file) => [file.name, new Uint8Array(await file.arrayBuffer()), []]);
  try {
    const found = await Promise.all(read);
    if (found.length) showAll(found);
  } catch (error) {
    document.getElementById("message").textContent = sentence(error);
  }
}

function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

document.getElementById("files").addEventListener("change", ({ target }) => take(target.files));
for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("drag", type === "dragover");
    if (type === "drop") take(event.dataTransfer.files);
  });
}
showAll([...document.querySelectorAll("script[data-file]")].map((script) => {
  const { name, stages } = JSON.parse(script.dataset.file);
  return [name, fromBase64(script.textContent), stages];
}));
document.documentElement.dataset.ready = Math.round(performance.now());
