// Sends dropped images to this server, one after the other, and draws what it found. The server sends every detection
// once; the threshold is applied here, and a change of it draws again. Names enter the page as text.

const LONGEST = 1600; // side of a drawing, in pixels
const COLORS = ["#e6194b", "#1c7ed6", "#2f9e44", "#f59f00", "#7048e8", "#0ca678", "#d6336c", "#5c940d", "#ae3ec9", "#e8590c"];
const shown = [];
let thresholds = null;

function threshold(id) {
  const text = $("threshold").value;
  return text === "" ? thresholds.get(id) : Number(text);
}

// COCO's run lengths: numbers of five bits a character, lowest first; from the fourth on, differences.
function decodeRuns(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value -= 2 ** shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

function fillMask(context, segmentation, scale) {
  const [height] = segmentation.size;
  const step = Math.max(1, Math.floor(1 / scale)); // columns that share a column of the drawing
  let at = 0;
  decodeRuns(segmentation.counts).forEach((run, index) => {
    for (let start = at; index % 2 && start < at + run; ) {
      const column = Math.floor(start / height), end = Math.min(at + run, (column + 1) * height);
      if (column % step === 0) {
        const left = Math.floor(column * scale), right = Math.max(Math.floor((column + step) * scale), left + 1);
        const top = Math.round((start - column * height) * scale), bottom = Math.round((end - column * height) * scale);
        context.fillRect(left, top, right - left, bottom - top);
      }
      start = end;
    }
    at += run;
  });
}

function redraw({ bitmap, canvas, line, answer, colors }) {
  const scale = Math.min(1, LONGEST / Math.max(answer.width, answer.height));
  canvas.width = Math.max(1, Math.round(answer.width * scale));
  canvas.height = Math.max(1, Math.round(answer.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const found = answer.detections.filter((one) => one.score >= threshold(one.category_id));
  const bySize = [...found].sort((a, b) => b.bbox[2] * b.bbox[3] - a.bbox[2] * a.bbox[3]);
  context.font = "14px sans-serif";
  for (const one of bySize) {
    const [x, y, width, height] = one.bbox.map((value) => value * scale);
    context.fillStyle = context.strokeStyle = colors(one.category_id);
    context.globalAlpha = 0.45;
    if (one.segmentation) fillMask(context, one.segmentation, scale);
    context.globalAlpha = 1;
    context.strokeRect(x, y, width, height);
    context.fillText(`${one.category} ${one.score.toFixed(2)}`, x + 2, Math.max(y - 4, 14));
  }
  canvas.setAttribute("aria-label", `${found.length} objects`);
  line.textContent = found.map((one) => `${one.category} ${one.score.toFixed(2)}`).join(", ") || "nothing scores enough";
}

function chooseColor() {
  const known = new Map();
  return (id) => {
    if (!known.has(id)) known.set(id, COLORS[known.size % COLORS.length]);
    return known.get(id);
  };
}
const colors = chooseColor();

async function send(file) {
  const part = html("article", {}, html("h2", {}, file.name));
  $("results").prepend(part);
  $("status").textContent = `looking at ${file.name} …`;
  try {
    if (thresholds === null) {
      const model = await (await fetch("/model")).json();
      thresholds = new Map(model.classes.map((one) => [one.category_id, one.threshold]));
    }
    const response = await fetch("/predict?threshold=0", { method: "POST", body: file });
    const answer = await response.json();
    if (!response.ok) return part.append(html("p", { class: "error" }, answer.error));
    const stored = $("status").dataset.orientation === "stored";
    const bitmap = await createImageBitmap(file, { imageOrientation: stored ? "none" : "from-image" });
    const drawing = { bitmap, canvas: html("canvas", { role: "img" }), line: html("p"), answer, colors };
    part.append(drawing.canvas, drawing.line);
    shown.push(drawing);
    redraw(drawing);
  } catch {
    part.append(html("p", { class: "error" }, "no answer: is the server still running, and is the file below 20 MB?"));
  } finally {
    $("status").textContent = "";
  }
}
async function sendAll(files) {
  for (const file of files) await send(file);
}

$("threshold").addEventListener("input", () => shown.forEach(redraw));
$("file").addEventListener("change", () => sendAll([...$("file").files]));
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") $("file").click(); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") sendAll([...event.dataTransfer.files]);
  });
}
