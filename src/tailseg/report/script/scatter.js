// Classes by their training images, a dot a class, and pointing at a dot.

function scatter() {
  const kind = $("scatter-value").value;
  const shown = classes().name.map((_, i) => i).filter((i) => valueOf(kind, i) !== null);
  const values = shown.map((i) => valueOf(kind, i));
  const bounds = kind === "change"
    ? { min: Math.min(-0.05, ...values), max: Math.max(0.05, ...values) }
    : { min: 0, max: Math.max(0.1, ...values) };
  const counts = shown.map((i) => Math.max(1, classes().count[i]));
  const label = `${$("scatter-value").selectedOptions[0].textContent} against ${data.counted}, a dot a class`;
  chart($("scatter"), label, 280, (root, width, height) => {
    const x = { min: 0.8, max: Math.max(12, ...counts) * 1.2, log: true, label: data.counted };
    const [sx, sy] = axes(root, width, height, x, { ...bounds, format: (v) => (100 * v).toFixed(0) });
    for (const edge of classes().images === null ? [] : data.bounds) {
      if (edge * 1.05 < x.max) root.append(svg("line", { x1: sx(edge * 1.05), x2: sx(edge * 1.05), y1: MARGIN.top, y2: height - MARGIN.bottom, class: "grid", "stroke-dasharray": "3 3" }));
    }
    const dots = shown.map((i) => ({ i, x: sx(Math.max(1, classes().count[i])), y: sy(valueOf(kind, i)) }));
    dots.sort((a, b) => matching(a.i) - matching(b.i));
    for (const dot of dots) {
      const on = matching(dot.i);
      dot.node = svg("circle", { cx: dot.x, cy: dot.y, r: on ? 4.5 : 3, class: "dot", "data-class": dot.i,
        fill: `var(--${classes().group[dot.i]})`, "fill-opacity": on ? 0.75 : 0.12 });
      root.append(dot.node);
    }
    pointing(root, dots.filter((dot) => matching(dot.i)), (i) => `${classes().name[i]}: ${kind === "change" ? signed(valueOf(kind, i)) : percent(valueOf(kind, i))}, ${whole(classes().count[i])} ${data.counted}`);
  });
}

// The nearest dot under the pointer; arrows walk along the dots from rare to frequent.
function pointing(root, dots, describe) {
  const order = [...dots].sort((a, b) => a.x - b.x || a.y - b.y);
  let at = -1;
  const ring = svg("circle", { r: 8, fill: "none", stroke: "var(--ink)", "stroke-width": 2, visibility: "hidden" });
  root.append(ring);
  const show = (dot) => {
    ring.setAttribute("visibility", dot ? "visible" : "hidden");
    if (!dot) return tip(null);
    ring.setAttribute("cx", dot.x);
    ring.setAttribute("cy", dot.y);
    const box = root.getBoundingClientRect();
    tip(describe(dot.i), box.left + window.scrollX + dot.x, box.top + window.scrollY + dot.y);
  };
  const nearest = (event) => {
    const box = root.getBoundingClientRect();
    const far = (dot) => Math.hypot(dot.x - (event.clientX - box.left), dot.y - (event.clientY - box.top));
    const best = order.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    return best && far(best) < 24 ? best : null;
  };
  root.addEventListener("pointermove", (event) => show(nearest(event)));
  root.addEventListener("pointerleave", () => show(null));
  root.addEventListener("click", (event) => { const dot = nearest(event); if (dot) location.hash = href(dot.i); });
  root.setAttribute("tabindex", 0);
  root.addEventListener("blur", () => show(null));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step && order.length) {
      event.preventDefault();
      at = (at + step + order.length) % order.length;
      show(order[at]);
    } else if (event.key === "Enter" && at >= 0) location.hash = href(order[at].i);
  });
}
