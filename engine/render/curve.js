// A value along the tokens as a step line. Token t owns the cell from x(t) to x(t + 1).
const curves = new WeakMap();
const LEFT = 44, RIGHT = 10, TOP = 9, BOTTOM = 22;
const REACH = 3; // px: where tokens are narrower, the pointer takes the nearest value within reach
const DRAG = 4; // px before a press becomes a range
const REVEAL = 1300; // ms

export default function curve({ data, parentElement, setStateValue }) {
  let one = curves.get(parentElement);
  if (!one) {
    one = new Curve(parentElement);
    curves.set(parentElement, one);
  }
  one.update(data, setStateValue);
  return () => {
    one.close();
    curves.delete(parentElement);
  };
}

class Curve extends Linked {
  constructor(parent) {
    super(parent, ".ts-curve", "curve");
    this.plot = this.root.querySelector(".plot");
    this.tip = this.root.querySelector(".tip");
    const mouse = (name, act) => this.plot.addEventListener(name, act.bind(this));
    mouse("pointerdown", this.press);
    mouse("pointermove", this.move);
    mouse("pointerup", this.release);
    mouse("pointercancel", () => { this.from = null; });
    mouse("pointerleave", () => { this.tip.hidden = true; this.hover(null); });
  }

  draw() {
    const { data } = this;
    this.root.dataset.theme = themeOf(this.root);
    this.width = this.root.clientWidth;
    this.inner = Math.max(this.width - LEFT - RIGHT, 40);
    this.height = data.height - TOP - BOTTOM;
    this.root.querySelector(".name").textContent = data.title;
    this.root.querySelector(".aside").textContent = data.note;
    this.root.setAttribute("aria-label", `${data.title}: arrow keys move, Shift extends`);
    this.root.setAttribute("aria-valuemin", data.offset);
    this.root.setAttribute("aria-valuemax", this.last);
    const clip = `c${Math.random().toString(36).slice(2)}`;
    this.window = svg("rect", { x: 0, y: -TOP, width: this.width, height: data.height });
    const shape = svg("clipPath", { id: clip });
    shape.append(this.window);
    const drawn = svg("g", { class: "drawn", "clip-path": `url(#${clip})` });
    const { low, high, value, second } = this.columns;
    const start = Math.min(Math.max(data.start - data.offset, 0), this.columns.length);
    const all = this.columns.length;
    if (low && high) drawn.append(svg("path", { class: "band", d: this.band(low, high) }));
    if (start > 0) drawn.append(svg("path", { class: "line asked", d: this.path(value, 0, start) }));
    const crowded = this.inner < all ? " crowded" : "";
    drawn.append(svg("path", { class: second ? "line raw" : `line${crowded}`, d: this.path(value, start, all) }));
    if (second) drawn.append(svg("path", { class: "line mean", d: this.path(second, 0, all) }));
    this.selected = svg("rect", { class: "selected", y: -TOP, height: this.height + TOP });
    this.dot = svg("circle", { class: "dot", r: 4 });
    this.pointer = svg("line", { class: "pointer", y1: -TOP, y2: this.height });
    this.ring = svg("circle", { class: "ring", r: 3.5 });
    const stage = svg("g", { transform: `translate(${LEFT} ${TOP})` });
    this.labels = svg("g", { class: "marks" });
    stage.append(shape, this.axes(), this.selected, drawn, this.dot, this.pointer, this.ring, this.labels);
    const picture = svg("svg", { width: this.width, height: data.height, "aria-hidden": "true" });
    picture.append(stage);
    this.plot.replaceChildren(picture);
    this.mark(drawn);
    this.showSelection();
    this.showPointed();
    if (data.reveal && this.revealed !== data.signature) this.reveal();
    this.revealed = data.signature;
  }

  x(position) {
    return ((position - this.data.offset) * this.inner) / Math.max(this.columns.length, 1);
  }

  y(value) {
    return (1 - share(this.data.axis, value)) * this.height;
  }

  axes() {
    const { axis, ticks, start, offset } = this.data;
    const group = svg("g", { class: "axes" });
    const zero = axis.low < 0 && axis.high > 0 ? this.y(0) : this.height;
    group.append(svg("line", { x1: 0, x2: this.inner, y1: zero, y2: zero }));
    for (const [value, text] of axis.ticks) {
      group.append(svg("text", { x: -8, y: this.y(value) + 4, class: "end" }, text));
    }
    if (start > offset && start <= this.last) {
      group.append(svg("line", { class: "boundary", x1: this.x(start), x2: this.x(start), y1: -TOP, y2: this.height + 5 }));
    }
    // The last label ends at the right; from there leftwards, one that would run into another is
    // left out.
    let free = Infinity;
    ticks.toReversed().forEach(([position, text], k) => {
      const width = text.length * 6.6, final = k === 0 && ticks.length > 1;
      const left = final ? this.inner - width : this.x(position);
      if (left + width > free) return;
      free = left - 10;
      const place = final ? { x: this.inner, class: "end" } : { x: left };
      group.append(svg("text", { ...place, y: this.height + 17 }, text));
    });
    return group;
  }

  // Steps where a token is a pixel wide or more, else the extremes of every column of pixels.
  path(values, from, to) {
    const unit = this.inner / this.columns.length;
    const parts = [];
    let pen = false;
    const go = (x, y) => { parts.push(pen ? "L" : "M", x.toFixed(2), " ", y.toFixed(2)); pen = true; };
    if (unit >= 1) {
      for (let i = from; i < to; i += 1) {
        if (Number.isNaN(values[i])) { pen = false; continue; }
        const y = this.y(values[i]);
        go(i * unit, y);
        go((i + 1) * unit, y);
      }
      return parts.join("");
    }
    const { first, last, low, high, left } = decimate(values, from, to, unit);
    for (let k = 0; k < low.length; k += 1) {
      if (Number.isNaN(low[k])) { pen = false; continue; }
      const x = left + k + 0.5;
      const rises = last[k] >= first[k];
      for (const v of [first[k], rises ? low[k] : high[k], rises ? high[k] : low[k], last[k]]) go(x, this.y(v));
    }
    return parts.join("");
  }

  // The area between two bounds, one closed shape per stretch that has both.
  band(low, high) {
    const unit = this.inner / this.columns.length;
    const known = low.map((v, i) => (Number.isNaN(v) || Number.isNaN(high[i]) ? NaN : v));
    let steps; // [left, right, low, high]
    if (unit >= 1) {
      steps = Array.from(known, (v, i) => [i * unit, (i + 1) * unit, v, high[i]]);
    } else {
      const bottom = decimate(known, 0, known.length, unit), top = decimate(high, 0, high.length, unit);
      steps = Array.from(bottom.low, (v, k) => [k, k + 1, v, top.high[k]]);
    }
    const shapes = [];
    let run = [];
    const end = () => {
      if (!run.length) return;
      const upper = run.map(([a, b, , v]) => `${a.toFixed(2)} ${this.y(v).toFixed(2)}L${b.toFixed(2)} ${this.y(v).toFixed(2)}`);
      const lower = run.toReversed().map(([a, b, v]) => `${b.toFixed(2)} ${this.y(v).toFixed(2)}L${a.toFixed(2)} ${this.y(v).toFixed(2)}`);
      shapes.push(`M${upper.join("L")}L${lower.join("L")}Z`);
      run = [];
    };
    for (const step of steps) Number.isNaN(step[2]) ? end() : run.push(step);
    end();
    return shapes.join("");
  }

  // Dots with their texts, each where the line leaves most room.
  mark(drawn) {
    const taken = [];
    for (const { position, text, note, before } of this.data.marks) {
      const here = this.at("value", position), earlier = this.at("value", position - 1);
      const value = before && !Number.isNaN(earlier) ? earlier : here;
      if (Number.isNaN(value)) continue;
      const x = this.x(position) + (before ? 0 : this.inner / this.columns.length / 2);
      drawn.append(svg("circle", { class: "mark", cx: x, cy: this.y(value), r: 4.5 }));
      const wide = Math.max(text.length * 7.2, note.length * 6.1);
      const leftwards = x > wide + 14 || x > this.inner / 2;
      const [a, b] = leftwards ? [x - 12 - wide, x - 12] : [x + 12, x + 12 + wide];
      const tall = note ? 34 : 18;
      const y = this.room(a, b, tall, taken);
      taken.push([a, b, y, y + tall]);
      const place = { x: leftwards ? b : a, class: leftwards ? "end" : "" };
      this.labels.append(svg("text", { ...place, y: y + 14, class: `${place.class} said` }, text));
      if (note) this.labels.append(svg("text", { ...place, y: y + 32 }, note));
    }
  }

  room(a, b, tall, taken) {
    const unit = this.inner / this.columns.length;
    const from = Math.max(0, Math.floor(a / unit)), to = Math.min(this.columns.length, Math.ceil(b / unit));
    let best = 0, most = -Infinity;
    for (let y = 0; y + tall <= this.height; y += 6) {
      let clear = Math.min(40, y + 20, this.height - y - tall + 20);
      for (let i = from; i < to; i += 1) {
        const v = this.columns.value[i];
        if (Number.isNaN(v)) continue;
        const line = this.y(v);
        clear = Math.min(clear, line < y ? y - line : line > y + tall ? line - y - tall : -1);
      }
      for (const [c, d, top, bottom] of taken) if (a < d && c < b && y < bottom && top < y + tall) clear = -2;
      if (clear > most) [best, most] = [y, clear];
    }
    return best;
  }

  reveal() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    this.root.classList.add("revealing");
    const begun = performance.now(), rect = this.window;
    const step = (now) => {
      const t = Math.min(Math.max((now - begun) / REVEAL, 0), 1);
      rect.setAttribute("width", this.inner * (1 - (1 - t) ** 2) + RIGHT);
      if (t < 1 && rect.isConnected) requestAnimationFrame(step);
      else {
        rect.setAttribute("width", this.width);
        this.root.classList.remove("revealing");
      }
    };
    step(begun);
  }

  showSelection() {
    const [first, last] = this.selection ?? [-1, -1];
    const from = Math.max(Math.min(first, last), this.data.offset), to = Math.min(Math.max(first, last), this.last);
    show(this.selected, from <= to);
    const value = from === to ? this.at("value", from) : NaN;
    show(this.dot, !Number.isNaN(value));
    if (from > to) return;
    const left = this.x(from), width = Math.max(this.x(to + 1) - left, 2);
    place(this.selected, { x: Math.min(left, this.inner - width), width });
    if (!Number.isNaN(value)) place(this.dot, { cx: (this.x(from) + this.x(from + 1)) / 2, cy: this.y(value) });
    this.root.setAttribute("aria-valuenow", last);
    const piece = bare(this.columns.piece(to - this.data.offset));
    this.root.setAttribute("aria-valuetext", `position ${to}, ${piece}, ${this.written(to)}`);
  }

  written(position) {
    const value = number(this.at("value", position), this.data.whole);
    return this.data.unit && value !== "–" ? `${value} ${this.data.unit}` : value;
  }

  showPointed() {
    const position = this.pointed;
    const shown = position !== null && position >= this.data?.offset && position <= this.last;
    show(this.pointer, shown);
    const value = shown ? this.at("value", position) : NaN;
    show(this.ring, !Number.isNaN(value));
    if (!shown) return;
    const x = (this.x(position) + this.x(position + 1)) / 2;
    place(this.pointer, { x1: x, x2: x });
    if (!Number.isNaN(value)) place(this.ring, { cx: x, cy: this.y(value) });
  }

  cell(x) {
    const i = Math.floor((x * this.columns.length) / this.inner);
    return this.data.offset + Math.min(Math.max(i, 0), this.columns.length - 1);
  }

  // The token meant by the pointer: its cell, or the value nearest to it where cells are narrow.
  under(event) {
    const box = this.plot.getBoundingClientRect();
    const x = event.clientX - box.left - LEFT, y = event.clientY - box.top - TOP;
    if (this.inner / this.columns.length >= REACH) return this.cell(x);
    let best = this.cell(x), least = Infinity;
    for (let p = this.cell(x - REACH / 2); p <= this.cell(x + REACH / 2); p += 1) {
      const far = Math.abs(this.y(this.at("value", p)) - y);
      if (far < least) [best, least] = [p, far];
    }
    return best;
  }

  press(event) {
    if (event.button !== 0) return;
    this.from = { x: event.clientX, position: this.under(event), range: event.shiftKey };
    this.plot.setPointerCapture(event.pointerId);
  }

  exact(event) {
    return this.cell(event.clientX - this.plot.getBoundingClientRect().left - LEFT);
  }

  move(event) {
    const position = this.under(event);
    this.hover(position);
    if (this.from && (this.from.dragged || Math.abs(event.clientX - this.from.x) > DRAG)) {
      this.from.dragged ??= this.cell(this.from.x - this.plot.getBoundingClientRect().left - LEFT);
      this.tip.hidden = true;
      this.choose(this.from.dragged, this.exact(event), { settled: false });
      return;
    }
    const { data } = this;
    const facts = [[data.name, number(this.at("value", position), data.whole), data.unit]];
    if (this.columns.low) {
      const ends = ["low", "high"].map((name) => number(this.at(name, position), data.whole));
      facts.push([data.band, ends.join(" – "), data.unit]);
    }
    if (this.columns.second) facts.push([data.second, number(this.at("second", position)), data.unit]);
    this.tipAt(this.tip, position, facts, event.clientX, event.clientY);
  }

  release(event) {
    const { from } = this;
    this.from = null;
    if (!from) return;
    if (from.dragged !== undefined) this.choose(from.dragged, this.exact(event));
    else this.choose(from.range && this.selection ? this.selection[0] : from.position, from.position);
    this.root.focus({ preventScroll: true });
  }
}

// First, last, smallest and largest value of every column of pixels that values[from … to) touch;
// `unit` is the width of one value in pixels, below 1.
function decimate(values, from, to, unit) {
  const left = Math.floor(from * unit);
  const columns = to > from ? Math.floor((to - 1) * unit) - left + 1 : 0;
  const [first, last, low, high] = Array.from({ length: 4 }, () => new Float32Array(columns).fill(NaN));
  for (let i = from; i < to; i += 1) {
    const v = values[i];
    if (Number.isNaN(v)) continue;
    const k = Math.floor(i * unit) - left;
    if (Number.isNaN(low[k])) first[k] = low[k] = high[k] = v;
    else if (v < low[k]) low[k] = v;
    else if (v > high[k]) high[k] = v;
    last[k] = v;
  }
  return { first, last, low, high, left };
}
