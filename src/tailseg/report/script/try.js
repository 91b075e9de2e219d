// Sends dropped images to this server, one after the other, and shows what it found. Names enter the page as text.

async function send(file) {
  const part = html("article", {}, html("h2", {}, file.name));
  $("results").prepend(part);
  $("status").textContent = `looking at ${file.name} …`;
  try {
    const response = await fetch(`/predict?threshold=${encodeURIComponent($("threshold").value)}`, { method: "POST", body: file });
    const answer = await response.json();
    if (!response.ok) return part.append(html("p", { class: "error" }, answer.error));
    const alt = `${file.name} with ${answer.found.length} objects`;
    const list = answer.found.map(([name, score]) => `${name} ${score.toFixed(2)}`).join(", ");
    part.append(html("img", { src: `data:image/jpeg;base64,${answer.picture}`, alt }), html("p", {}, list || "nothing scores enough"));
  } catch {
    part.append(html("p", { class: "error" }, "no answer: is the server still running, and is the file below 20 MB?"));
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
