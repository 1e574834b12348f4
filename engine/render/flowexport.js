// The graph as one SVG file that needs nothing else, in the light theme's colours, and as a PNG of
// it. flowsvg.py writes the same file without a browser.
const MONO = "'Source Code Pro', 'DejaVu Sans Mono', ui-monospace, monospace";
const SANS = "'Source Sans', 'Source Sans Pro', 'DejaVu Sans', sans-serif";
const TITLE = 46, KEY = 40, SAID = 18; // px above and below the picture
const LEAST_FILE = 780; // px: the legend has room
const PNG_SCALE = 3;
const DIRECTION = "flow runs to the right, and down inside a column";

// A token's label: signs dimmer, codes smaller.
function labelOf(item, attributes) {
  const text = svg("text", attributes);
  const label = item.label;
  let at = 0;
  while (at < label.length) {
    const mark = label[at];
    if (mark === DIM || mark === BOX) {
      const end = label.indexOf(END, at);
      const look = mark === DIM ? { "fill-opacity": 0.45 } : { "font-size": 10.5 };
      text.append(svg("tspan", look, label.slice(at + 1, end)));
      at = end + 1;
    } else {
      let end = at;
      while (end < label.length && label[end] !== DIM && label[end] !== BOX) end += 1;
      text.append(svg("tspan", {}, label.slice(at, end)));
      at = end;
    }
  }
  return text;
}

const pathOf = ([x1, y1, ...rest]) => `M${x1.toFixed(1)} ${y1.toFixed(1)}C${rest.map((v) => v.toFixed(1)).join(" ")}`;

// A dot, or a square for a folded run, and the label.
function itemShape(item, most, { text, muted, background }, ramp, strong) {
  const fill = shadeOf(item.throughput, most, ramp);
  const { x, y, r } = item;
  const look = { fill, stroke: muted, "stroke-width": 0.6 };
  const dot = item.folded
    ? svg("rect", { x: (x - r).toFixed(1), y: (y - r).toFixed(1), width: (2 * r).toFixed(1), height: (2 * r).toFixed(1), ...look })
    : svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: r.toFixed(1), ...look });
  const label = labelOf(item, {
    x: (x + DOT + 2).toFixed(1), y: (y + 4.5).toFixed(1),
    fill: strong && !item.folded ? text : muted, stroke: background,
  });
  return [dot, label];
}

function figureOf({ data, layout, ribbons, mostFlow, kept }) {
  const [colors, ramp] = [data.colors.light, data.ramps.light];
  const { height } = layout;
  const width = Math.max(layout.width, LEAST_FILE);
  const tall = TITLE + height + KEY + SAID;
  const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width: width.toFixed(0), height: tall.toFixed(0), viewBox: `0 0 ${width.toFixed(0)} ${tall.toFixed(0)}`, "font-family": SANS, "font-size": 12, fill: colors.muted });
  root.append(svg("title", {}, data.title), svg("rect", { width: "100%", height: "100%", fill: colors.background }));
  root.append(svg("text", { x: 10, y: 20, "font-size": 15, "font-weight": 600, fill: colors.text }, data.title));
  root.append(svg("text", { x: 10, y: 38 }, [kept.sentence, data.note].filter(Boolean).join(" · ")));
  const body = svg("g", { transform: `translate(0 ${TITLE})` });
  root.append(body);
  for (const head of layout.heads) body.append(...headShape(head, colors));
  const lines = svg("g", { fill: "none", "stroke-linecap": "round" });
  body.append(lines);
  for (const { curve, flow } of ribbons) {
    lines.append(svg("path", { d: pathOf(curve), stroke: shadeOf(flow, mostFlow, ramp), "stroke-width": strokeOf(flow, mostFlow).toFixed(2) }));
  }
  const names = svg("g", { "font-family": MONO, "font-size": 14, "paint-order": "stroke", "stroke-width": 3, "stroke-linejoin": "round" });
  body.append(names);
  const strong = touchedBy(ribbons);
  layout.items.forEach((item, n) => names.append(...itemShape(item, layout.most, colors, ramp, strong.has(n))));
  root.append(keyShape(TITLE + height, mostFlow, layout.most, colors, ramp));
  root.append(svg("text", { x: 10, y: (tall - 12).toFixed(1) }, DIRECTION));
  return root;
}

function headShape({ part, left, right }, { muted, line }) {
  return [
    svg("text", { x: left.toFixed(1), y: 14, fill: muted }, PARTS[part]),
    svg("path", { d: `M${left.toFixed(1)} 20.5H${right.toFixed(1)}`, stroke: line, fill: "none" }),
  ];
}

// What width, size and colour mean, in numbers.
function keyShape(top, mostFlow, most, { muted }, ramp) {
  const key = svg("g", { transform: `translate(10 ${top.toFixed(1)})` });
  key.append(svg("text", { x: 0, y: 24 }, "flow of an edge  0"));
  for (let k = 0; k < 20; k += 1) {
    const share = (k + 1) / 20;
    key.append(svg("rect", { x: 104 + 4 * k, y: (20 - strokeOf(share, 1) / 2).toFixed(2), width: 4, height: strokeOf(share, 1).toFixed(2), fill: shadeOf(share, 1, ramp) }));
  }
  key.append(svg("text", { x: 190, y: 24 }, number(mostFlow)));
  key.append(svg("text", { x: 270, y: 24 }, "throughput of a token"));
  for (const [k, part] of [[0, 0.25], [1, 1]]) {
    const r = DOT * Math.sqrt(part);
    key.append(svg("circle", { cx: 416 + 70 * k, cy: 20, r, fill: shadeOf(part, 1, ramp), stroke: muted, "stroke-width": 0.6 }));
    key.append(svg("text", { x: 430 + 70 * k, y: 24 }, number(part * most)));
  }
  key.append(svg("text", { x: 570, y: 24 }, "all flow: 1"));
  return key;
}

const touchedBy = (ribbons) => new Set(ribbons.flatMap(({ source, target }) => [source, target]));

const fileOf = (view) => `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(figureOf(view))}`;

function saveSvg(view) {
  save(new Blob([fileOf(view)], { type: "image/svg+xml" }), "flow-graph.svg");
}

async function savePng(view) {
  save(await pngOf(view), "flow-graph.png");
}

async function pngOf(view) {
  const address = URL.createObjectURL(new Blob([fileOf(view)], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = element("canvas");
    canvas.width = image.naturalWidth * PNG_SCALE;
    canvas.height = image.naturalHeight * PNG_SCALE;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob(done, "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

function save(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
