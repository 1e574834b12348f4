// What a heatmap is painted with: places on the colour map, canvases, labels, hatching, legend.
// A place on the ramp; 0 is the background, in the middle of a signed one.
function levelOf(value, { limit, signed }, steps) {
  const share = Math.min(Math.max(value / limit, -1), 1);
  return Math.round((signed ? (share + 1) / 2 : Math.max(share, 0)) * (steps - 1));
}

function sheetOf(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  const [wide, tall] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== tall) {
    Object.assign(canvas, { width: wide, height: tall });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

const fontOf = (root) => `13px ${getComputedStyle(root).getPropertyValue("--st-code-font").trim() || "ui-monospace, monospace"}`;

// A token on a canvas: signs dimmer, codes as they are.
function paintLabel(pen, label, x, y, color) {
  pen.fillStyle = color;
  for (const [, mark, marked, text] of label.matchAll(/([\x01\x02])([^\x03]*)\x03|([^\x01-\x03]+)/g)) {
    pen.globalAlpha = mark === DIM ? 0.5 : 1;
    const run = marked ?? text;
    pen.fillText(run, x, y);
    x += pen.measureText(run).width;
  }
  pen.globalAlpha = 1;
}

function hatching({ muted }) {
  const tile = element("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  pen.strokeStyle = muted;
  pen.globalAlpha = 0.35;
  pen.beginPath();
  for (const at of [-6, 0, 6]) {
    pen.moveTo(at, 6);
    pen.lineTo(at + 6, 0);
  }
  pen.stroke();
  return pen.createPattern(tile, "repeat");
}

function heatLegend({ data, ramp }) {
  const bar = element("span", "ramp");
  bar.style.background = `linear-gradient(90deg, ${ramp.join(",")})`;
  const parts = [element("span", "", data.name), element("span", "end", data.ends[0]), bar, element("span", "end", data.ends.at(-1))];
  if (data.unit) parts.push(element("span", "", data.unit));
  const notes = [];
  if (data.signed) notes.push("no colour: 0");
  if (data.missing) notes.push("hatched: no value");
  return [...parts, element("span", "notes", notes.join(" · ")), element("span", "part")];
}
