// A heatmap of tokens against tokens. Row labels stay while the columns scroll: one canvas holds the
// rows' names, another as wide as the view draws the columns that are in it. Its brushes are in
// heatpaint.js.
const heatmaps = new WeakMap();
const CELL_TALL = 20, CELL_WIDE = 40, READABLE = 15, THINNEST = 2; // px of a cell
const CHAR = 7.8, EDGE = 6; // px of a monospace character at 13 px; between label and cells
const BELOW = 1; // px of the frame under the last row

export default function heatmap({ data, parentElement, setStateValue }) {
  let one = heatmaps.get(parentElement);
  if (!one) {
    one = new Heatmap(parentElement);
    heatmaps.set(parentElement, one);
  }
  one.update(data, setStateValue);
  return () => {
    one.close();
    heatmaps.delete(parentElement);
  };
}

class Heatmap extends Linked {
  constructor(parent) {
    super(parent, ".ts-heat", "heatmap");
    const find = (name) => this.root.querySelector(name);
    this.grid = find(".grid");
    this.names = find(".rows");
    this.scroller = find(".scroller");
    this.sheet = find(".sheet");
    this.canvas = this.sheet.querySelector("canvas");
    this.tip = find(".tip");
    this.cell = null; // the cell a person chose or the keyboard is at: [row, column]
    this.scroller.addEventListener("scroll", () => this.paint(), { passive: true });
    this.grid.addEventListener("pointermove", (event) => this.move(event));
    this.grid.addEventListener("pointerleave", () => this.leave());
    this.grid.addEventListener("click", (event) => this.click(event));
    find(".fit").addEventListener("click", () => {
      this.fitted = !this.fitted;
      this.draw();
    });
  }

  update(data, report) {
    if (data.signature !== this.data?.signature) {
      const { cells } = data;
      const values = cells.getChild ? cells.getChild("value").toArray() : cells.value;
      this.values = Float32Array.from(values, (v) => v ?? NaN);
      this.cell = null;
      this.fitted = undefined;
    }
    super.update(data, report);
  }

  value(row, column) {
    return this.values[row * this.columns.length + column];
  }

  draw() {
    const { data, root } = this;
    const theme = (root.dataset.theme = themeOf(root));
    this.look = data.looks[theme];
    this.ramp = this.look[data.signed ? "diverging" : "sequential"];
    this.width = root.clientWidth;
    root.querySelector(".name").textContent = data.title;
    root.querySelector(".aside").textContent = data.note;
    this.grid.setAttribute("aria-label", `${data.title}: arrow keys move between cells, Enter selects one`);
    this.measure();
    this.hatch = hatching(this.look);
    root.querySelector(".legend").replaceChildren(...heatLegend(this));
    this.paint();
  }

  // Sizes: columns as wide as fit, at least so that a turned label can be read; of very many the
  // whole is shown first, with labels on hovering alone.
  measure() {
    const { data } = this;
    const longest = (labels) => Math.max(...labels.map((label) => bare(label).length), 0);
    const names = 6.5 * Math.max(...data.names.map((name) => name.length + 2));
    this.beside = Math.ceil(Math.max(CHAR * longest(data.rows.map((row) => row[1])), names)) + 2 * EDGE;
    this.room = Math.max(this.width - this.beside, 60);
    const count = this.columns.length;
    this.fitted ??= READABLE * count > 3 * this.room;
    const fit = this.room / count;
    this.wide = this.fitted ? Math.max(Math.floor(fit * 8) / 8, THINNEST) : Math.min(Math.max(fit, READABLE), CELL_WIDE);
    this.labelled = this.wide >= READABLE - 1;
    const turned = Math.max(CHAR * longest(data.labels), 30);
    this.top = this.labelled ? Math.ceil(turned) + 2 * EDGE : 38;
    this.tall = this.top + data.rows.length * CELL_TALL + BELOW;
    const button = this.root.querySelector(".fit");
    button.hidden = READABLE * count <= this.room;
    button.textContent = this.fitted ? "Show the column labels" : "Narrow columns";
    this.sheet.style.width = `${Math.ceil(this.wide * count)}px`;
    this.view = Math.min(Math.ceil(this.wide * count) + BELOW, this.room);
    this.scroller.style.width = `${this.view}px`;
    this.sheet.style.height = `${this.tall}px`;
  }

  paint() {
    if (!this.ramp) return;
    const from = this.scroller.scrollLeft;
    const pen = sheetOf(this.canvas, this.view, this.tall);
    const first = Math.max(Math.floor(from / this.wide), 0);
    const last = Math.min(Math.ceil((from + this.view) / this.wide), this.columns.length) - 1;
    this.paintCells(pen, first, last, from);
    pen.strokeStyle = this.look.line;
    pen.lineWidth = 1;
    pen.strokeRect(0.5 - from, this.top - 0.5, Math.round(this.wide * this.columns.length), this.tall - this.top);
    if (this.labelled) this.paintColumns(pen, first, last, from);
    else this.paintScale(pen, first, last, from);
    this.paintRows();
    this.paintChosen(pen, from);
    const count = this.columns.length;
    const part = this.wide * count > this.view + 2;
    const shown = `columns ${number(first + 1, true)} to ${number(last + 1, true)} of ${number(count, true)}: scroll for the others`;
    this.root.querySelector(".part").textContent = part ? shown : "";
  }

  paintCells(pen, first, last, from) {
    const { ramp, top, wide, data } = this;
    const gap = wide >= 6 ? 1 : 0;
    const calm = data.signed ? (ramp.length - 1) / 2 : 0;
    for (let row = 0; row < data.rows.length; row += 1) {
      const y = top + row * CELL_TALL;
      let hole = null;
      for (let column = first; column <= last + 1; column += 1) {
        const value = column <= last ? this.value(row, column) : 0;
        const x = column * wide - from;
        if (Number.isNaN(value)) {
          hole ??= x;
          continue;
        }
        if (hole !== null) {
          pen.fillStyle = this.hatch;
          pen.fillRect(hole, y, x - hole - gap, CELL_TALL - 1);
          hole = null;
        }
        const level = levelOf(value, data, ramp.length);
        if (level === calm || column > last) continue;
        pen.fillStyle = ramp[level];
        pen.fillRect(x, y, gap ? wide - gap : Math.ceil(wide), CELL_TALL - 1);
      }
    }
  }

  // Names of columns, upwards.
  paintColumns(pen, first, last, from) {
    const chosen = this.lines();
    pen.font = fontOf(this.root);
    for (let column = Math.max(first - 1, 0); column <= last; column += 1) {
      pen.save();
      pen.translate((column + 0.5) * this.wide - from + 4.5, this.top - EDGE);
      pen.rotate(-Math.PI / 2);
      paintLabel(pen, this.data.labels[column], 0, 0, chosen.columns.has(column) ? this.look.accent : this.look.text);
      pen.restore();
    }
  }

  // Without names, some positions tell where one is.
  paintScale(pen, first, last, from) {
    pen.fillStyle = this.look.muted;
    pen.font = fontOf(this.root);
    const every = Math.max(1, Math.ceil(70 / this.wide / 10)) * 10;
    for (let column = Math.ceil(first / every) * every; column <= last; column += every) {
      const at = this.columns.position[column];
      const x = column * this.wide - from;
      if (at < 0 || x > this.view - 40) continue;
      pen.fillRect(x, this.top - 5, 1, 4);
      pen.fillText(number(at, true), x + 3, this.top - 9);
    }
  }

  paintRows() {
    const pen = sheetOf(this.names, this.beside, this.tall);
    const chosen = this.lines();
    pen.font = `12px ${getComputedStyle(this.root).fontFamily}`;
    pen.fillStyle = this.look.muted;
    pen.textAlign = "right";
    pen.fillText(`${this.data.names[1]} →`, this.beside - EDGE, this.top - 22);
    pen.fillText(`${this.data.names[0]} ↓`, this.beside - EDGE, this.top - 6);
    pen.textAlign = "left";
    pen.font = fontOf(this.root);
    this.data.rows.forEach(([, label], row) => {
      const width = CHAR * bare(label).length;
      const color = chosen.rows.has(row) ? this.look.accent : this.look.text;
      paintLabel(pen, label, this.beside - EDGE - width, this.top + row * CELL_TALL + 14, color);
    });
  }

  // Rows and columns of the selected tokens.
  lines() {
    const inside = (position) => this.selection && position >= Math.min(...this.selection) && position <= Math.max(...this.selection);
    const found = { rows: new Set(), columns: new Set() };
    this.data.rows.forEach(([, , position], row) => inside(position) && found.rows.add(row));
    for (let c = 0; c < this.columns.length; c += 1) if (inside(this.columns.position[c])) found.columns.add(c);
    return found;
  }

  paintChosen(pen, from) {
    const { wide, top, look } = this;
    const { rows, columns } = this.lines();
    pen.lineWidth = 1.5;
    pen.strokeStyle = look.muted;
    const runs = [...columns].sort((a, b) => a - b);
    if (runs.length) pen.strokeRect(runs[0] * wide - from - 0.5, top - 0.5, (runs.at(-1) - runs[0] + 1) * wide, this.tall - top);
    for (const row of rows) pen.strokeRect(-from - 0.5, top + row * CELL_TALL - 0.5, wide * this.columns.length + 1, CELL_TALL);
    if (!this.cell) return;
    pen.strokeStyle = look.accent;
    pen.lineWidth = 2;
    pen.strokeRect(this.cell[1] * wide - from - 0.5, top + this.cell[0] * CELL_TALL - 0.5, Math.max(wide, 4), CELL_TALL);
  }

  // A token that was chosen elsewhere is scrolled to.
  told(message) {
    const before = this.selection?.join();
    super.told(message);
    if (this.stamp === 0 || !this.selection || this.selection.join() === before) return;
    const [column] = this.lines().columns;
    if (column !== undefined) this.reveal(column);
  }

  showSelection() {
    this.paint();
  }

  showPointed() {}

  // What is under the pointer: row, column, either of them -1 for a label of the other.
  under(event) {
    const box = this.grid.getBoundingClientRect();
    const y = event.clientY - box.top - this.top;
    const x = event.clientX - box.left - this.beside;
    const row = y < 0 ? -1 : Math.floor(y / CELL_TALL);
    const column = x < 0 ? -1 : Math.floor((x + this.scroller.scrollLeft) / this.wide);
    if (row >= this.data.rows.length || column >= this.columns.length || x >= this.view) return null;
    return row < 0 && column < 0 ? null : [row, column];
  }

  move(event) {
    const found = this.data && this.under(event);
    if (!found) return this.leave();
    const [row, column] = found;
    this.tell(found, event.clientX, event.clientY);
    const position = column >= 0 ? this.columns.position[column] : this.data.rows[row][2];
    this.hover(position < 0 ? null : position);
  }

  leave() {
    this.tip.hidden = true;
    this.hover(null);
  }

  click(event) {
    const found = this.data && this.under(event);
    if (found) this.take(...found);
  }

  // A cell selects its column's token, a label its own; a cell is also told to Python.
  take(row, column) {
    const position = column >= 0 ? this.columns.position[column] : this.data.rows[row][2];
    this.cell = row >= 0 && column >= 0 ? [row, column] : null;
    this.paint();
    if (this.cell) {
      this.cellStamp = Math.max(Date.now(), (this.cellStamp ?? 0) + 1);
      this.report("cell", { signature: this.data.text, row, column, stamp: this.cellStamp });
      this.say();
    }
    if (position >= 0) this.choose(position, position);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.data || !this.grid.contains(event.target)) return;
    const [row, column] = this.cell ?? [0, 0];
    const [rows, columns] = [this.data.rows.length, this.columns.length];
    const page = Math.max(1, Math.floor(this.view / this.wide) - 1);
    const steps = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -columns], End: [0, columns], PageUp: [0, -page], PageDown: [0, page],
    };
    if (event.key === "Enter" || event.key === " ") this.take(row, column);
    else if (event.key in steps) {
      const [down, right] = this.cell ? steps[event.key] : [0, 0];
      const inside = (v, count) => Math.min(Math.max(v, 0), count - 1);
      this.cell = [inside(row + down, rows), inside(column + right, columns)];
      this.reveal(this.cell[1]);
      this.say();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  reveal(column) {
    const { scroller, wide, view } = this;
    const x = column * wide;
    if (x < scroller.scrollLeft || x + wide > scroller.scrollLeft + view) scroller.scrollLeft = x - view / 2;
    this.paint();
  }

  words([row, column]) {
    const value = number(this.value(row, column));
    return this.data.unit && value !== "–" ? `${value} ${this.data.unit}` : value;
  }

  say() {
    const { data } = this;
    const [row, column] = this.cell;
    const parts = [
      element("span", "quiet", data.names[0]), fill(element("span", "token"), data.rows[row][1]),
      element("span", "quiet", data.names[1]), fill(element("span", "token"), data.labels[column]),
      element("span", "", `${data.name} ${this.words(this.cell)}`),
    ];
    this.root.querySelector(".said").replaceChildren(...parts);
  }

  tell([row, column], x, y) {
    const { data, tip } = this;
    const list = element("dl");
    const sides = [[data.names[0], data.rows[row]?.[0], data.rows[row]?.[2]], [data.names[1], column < 0 ? undefined : this.columns.piece(column), this.columns.position[column]]];
    for (const [name, piece, position] of sides) {
      if (piece === undefined) continue;
      list.append(element("dt", "", position < 0 ? name : `${name}, position ${number(position, true)}`), fill(element("dd", "token"), piece));
    }
    if (row >= 0 && column >= 0) list.append(element("dt", "", data.name), element("dd", "", this.words([row, column])));
    tip.replaceChildren(list);
    tip.hidden = false;
    const size = tip.getBoundingClientRect();
    const right = x + 14 + size.width < innerWidth;
    tip.style.left = `${right ? x + 14 : Math.max(8, x - size.width - 14)}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 14, innerHeight - size.height - 8))}px`;
  }
}
