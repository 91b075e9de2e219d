"use strict";
// Sends dropped images to this server, one after the other, and shows what it found. Names enter the page as text.
const $ = (id) => document.getElementById(id);
const add = (parent, tag, text = "", className = "") => {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  parent.append(node);
  return node;
};

async function send(file) {
  const part = document.createElement("article");
  add(part, "h2", file.name);
  $("results").prepend(part);
  $("status").textContent = `looking at ${file.name} …`;
  try {
    const response = await fetch(`/predict?threshold=${encodeURIComponent($("threshold").value)}`, { method: "POST", body: file });
    const answer = await response.json();
    if (!response.ok) return add(part, "p", answer.error, "error");
    const picture = add(part, "img");
    picture.src = `data:image/jpeg;base64,${answer.picture}`;
    picture.alt = `${file.name} with ${answer.found.length} objects`;
    const list = answer.found.map(([name, score]) => `${name} ${score.toFixed(2)}`).join(", ");
    add(part, "p", list || "nothing scores enough");
  } catch {
    add(part, "p", "no answer: is the server still running, and is the file below 20 MB?", "error");
  } finally {
    $("status").textContent = "";
  }
}
async function sendAll(files) {
  for (const file of files) await send(file);
}

$("file").addEventListener("change", () => sendAll([...$("file").files]));
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") $("file").click(); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") sendAll([...event.dataTransfer.files]);
  });
}
