// One point per token over two of its values: crowds by density, the selected token in colour.
const scatters = new WeakMap();
const LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 34;
const REACH = 12; // px from the pointer to the point it means

export default function scatter({ data, parentElement, setStateValue }) {
  let one = scatters.get(parentElement);
  if (!one) {
    one = new Scatter(parentElement);
    scatters.set(parentElement, one);
  }
  one.update(data, setStateValue);
  return () => {
    one.close();
    scatters.delete(parentElement);
  };
}

class Scatter extends Linked {
  constructor(parent) {
    super(parent, ".ts-scatter", "scatter");
    this.plot = this.root.querySelector(".plot");
    [this.crowd, this.above] = this.root.querySelectorAll("canvas");
    this.tip = this.root.querySelector(".tip");
    this.plot.addEventListener("pointermove", (event) => this.move(event));
    this.plot.addEventListener("click", (event) => this.click(event));
    this.plot.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
      this.hover(null);
    });
  }

  draw() {
    const { data, columns } = this;
    const theme = (this.root.dataset.theme = themeOf(this.root));
    this.width = this.root.clientWidth;
    this.inner = Math.max(this.width - LEFT - RIGHT, 40);
    this.height = data.height - TOP - BOTTOM;
    this.root.querySelector(".name").textContent = data.title;
    this.root.querySelector(".aside").textContent = data.note;
    this.root.setAttribute("aria-label", `${data.title}: arrow keys move along the tokens`);
    this.colors = data.colors[theme];
    this.font = getComputedStyle(this.root).fontFamily;
    this.xs = Float32Array.from(columns.x, (v) => LEFT + share(data.x, v) * this.inner);
    this.ys = Float32Array.from(columns.y, (v) => TOP + (1 - share(data.y, v)) * this.height);
    const pen = this.sheet(this.crowd);
    this.axes(pen);
    this.points(pen);
    this.showSelection();
  }

  sheet(canvas) {
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(this.width * scale);
    canvas.height = Math.round(this.data.height * scale);
    canvas.style.width = `${this.width}px`;
    canvas.style.height = `${this.data.height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    return pen;
  }

  axes(pen) {
    const { x, y } = this.data;
    const bottom = TOP + this.height;
    pen.strokeStyle = this.colors.line;
    pen.beginPath();
    pen.moveTo(LEFT + 0.5, TOP);
    pen.lineTo(LEFT + 0.5, bottom + 0.5);
    pen.lineTo(LEFT + this.inner, bottom + 0.5);
    pen.stroke();
    pen.fillStyle = this.colors.muted;
    pen.font = `12px ${this.font}`;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const [value, text] of y.ticks) pen.fillText(text, LEFT - 7, TOP + (1 - share(y, value)) * this.height);
    pen.textBaseline = "alphabetic";
    for (const [value, text] of x.ticks) {
      const at = LEFT + share(x, value) * this.inner;
      pen.textAlign = at > LEFT + this.inner - 12 ? "right" : "center";
      pen.fillText(text, at, bottom + 16);
    }
    pen.textAlign = "right";
    pen.fillText(`${x.label} →`, LEFT + this.inner, bottom + 31);
    pen.textAlign = "left";
    pen.fillText(`↑ ${y.label}`, LEFT + 8, TOP + 4);
  }

  // Fainter and smaller the more there are: what is dense grows dark by itself.
  points(pen) {
    const n = this.columns.length, start = this.data.start - this.data.offset;
    const size = n > 8000 ? 1.6 : n > 1500 ? 2.4 : 4.6;
    const weight = n > 8000 ? 0.3 : n > 1500 ? 0.42 : 0.62;
    for (const [from, to, color, alpha] of [
      [0, start, this.colors.muted, weight * 0.6],
      [start, n, this.colors.text, weight],
    ]) {
      pen.fillStyle = color;
      pen.globalAlpha = alpha;
      for (let i = Math.max(from, 0); i < Math.min(to, n); i += 1) {
        if (!this.known(i)) continue;
        if (size < 4) pen.fillRect(this.xs[i] - size / 2, this.ys[i] - size / 2, size, size);
        else {
          pen.beginPath();
          pen.arc(this.xs[i], this.ys[i], size / 2, 0, 7);
          pen.fill();
        }
      }
    }
    pen.globalAlpha = 1;
  }

  known(i) {
    return !Number.isNaN(this.columns.x[i]) && !Number.isNaN(this.columns.y[i]);
  }

  showSelection() {
    this.over();
    const at = this.selection?.[1];
    if (at === undefined) return;
    const { x, y } = this.data;
    const [a, b] = [number(this.at("x", at)), number(this.at("y", at))];
    this.root.setAttribute("aria-valuenow", at);
    this.root.setAttribute("aria-valuetext", `position ${at}, ${x.label} ${a}, ${y.label} ${b}`);
  }

  showPointed() {
    this.over();
  }

  // Selection and pointer on a sheet of their own: the crowd is drawn once.
  over() {
    if (!this.data) return;
    const pen = this.sheet(this.above);
    const { offset } = this.data;
    if (this.selection) {
      const [from, to] = [Math.min(...this.selection), Math.max(...this.selection)];
      pen.fillStyle = this.colors.accent;
      const single = from === to;
      for (let p = Math.max(from, offset); p <= Math.min(to, this.last); p += 1) {
        if (!this.known(p - offset)) continue;
        pen.beginPath();
        pen.arc(this.xs[p - offset], this.ys[p - offset], single ? 5 : 3, 0, 7);
        pen.fill();
        if (single) {
          pen.strokeStyle = this.colors.background;
          pen.lineWidth = 1.5;
          pen.stroke();
        }
      }
    }
    const i = this.pointed === null ? -1 : this.pointed - offset;
    if (i >= 0 && i < this.columns.length && this.known(i)) {
      pen.strokeStyle = this.colors.text;
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.arc(this.xs[i], this.ys[i], 6.5, 0, 7);
      pen.stroke();
    }
  }

  // The nearest point within reach, as a position of the text; null when there is none.
  under(event) {
    const box = this.plot.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = REACH * REACH;
    for (let i = 0; i < this.columns.length; i += 1) {
      const far = (this.xs[i] - x) ** 2 + (this.ys[i] - y) ** 2;
      if (far <= least && this.known(i)) [best, least] = [i, far];
    }
    return best === null ? null : best + this.data.offset;
  }

  move(event) {
    const position = this.under(event);
    this.hover(position);
    if (position === null) {
      this.tip.hidden = true;
      return;
    }
    const facts = ["x", "y"].map((name) => [this.data[name].title, number(this.at(name, position)), this.data[name].unit]);
    this.tipAt(this.tip, position, facts, event.clientX, event.clientY);
  }

  click(event) {
    const position = this.under(event);
    if (position === null) return;
    this.choose(event.shiftKey && this.selection ? this.selection[0] : position, position);
    this.root.focus({ preventScroll: true });
  }
}
