// The token strip: draws tokens in line blocks, colours them by one signal, keeps the selection.
// `data` is constant for one text; what changes (signal, selection) comes over the bus.
const strips = new WeakMap();
// Tokens per block: blocks off screen are not laid out. A long line is cut before a word.
const LINE = 200, LONGEST_LINE = 400;
const PROMPT = 1, ANSWER = 2, SPECIAL = 4;
const NAMES = { ArrowLeft: -1, ArrowRight: 1 };

export default function strip({ data, parentElement, setStateValue }) {
  let one = strips.get(parentElement);
  if (!one) {
    one = new Strip(parentElement);
    strips.set(parentElement, one);
  }
  one.report = setStateValue ?? (() => {});
  one.update(data);
  return () => one.close();
}

class Strip {
  constructor(parent) {
    this.parent = parent;
    this.root = parent.querySelector(".ts-strip");
    this.box = this.root.querySelector(".tokens");
    this.legend = this.root.querySelector(".legend");
    this.tip = this.root.querySelector(".tip");
    this.root.strip = this; // for tests and benchmarks
    this.selection = null;
    this.stamp = 0;
    this.onView = (event) => this.view(event.detail);
    window.addEventListener("tokenscope:view", this.onView);
    this.box.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault());
    this.box.addEventListener("click", (event) => this.click(event));
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("copy", (event) => this.copy(event));
    this.box.addEventListener("mouseover", (event) => this.hover(event.target.closest?.(".t")));
    this.box.addEventListener("mouseleave", () => this.hover(null));
    this.box.addEventListener("scroll", () => this.hover(null), { passive: true });
  }

  close() {
    window.removeEventListener("tokenscope:view", this.onView);
    clearTimeout(this.timer);
    strips.delete(this.parent);
  }

  update(data) {
    if (data.signature !== this.data?.signature) {
      this.data = data;
      this.columns = reader(data.columns);
      this.selection = null;
      this.stamp = 0;
      this.painted = null;
      this.build();
    }
    const view = window.tokenscopeViews?.get(data.channel) ?? data.view;
    if (view) this.view(view);
  }

  // What Python says: which signal, which tokens. An echo older than the last click is ignored.
  view(view) {
    if (!this.data || view.channel !== this.data.channel) return;
    const name = this.data.signals.some((s) => s.name === view.signal) ? view.signal : this.data.signals[0]?.name;
    this.paint(name, Boolean(view.prompt));
    if (view.signature === this.data.signature && view.selection && (view.stamp ?? 0) >= this.stamp) {
      this.select(...view.selection);
    }
    if (!this.drawn && this.painted) {
      this.drawn = true; // the page may now send what is below
      requestAnimationFrame(() => this.report("drawn", true));
    }
  }

  build() {
    const { piece, flags } = this.columns;
    const lines = document.createDocumentFragment();
    this.tokens = [];
    let line = null;
    for (let i = 0; i < piece.length; i += 1) {
      if (!line || this.breaks(i - 1) || this.full(line, piece[i])) {
        line = element("div", "line");
        lines.append(line);
      }
      const token = fill(element("span", "t"), piece[i]);
      token.dataset.i = i;
      token.id = `t${i}`;
      token.setAttribute("role", "option");
      if (flags[i] & PROMPT) token.classList.add("prompt");
      if (flags[i] & ANSWER) token.classList.add("answer");
      if (flags[i] & SPECIAL) token.classList.add("special");
      this.tokens.push(token);
      line.append(token);
    }
    this.box.replaceChildren(lines);
    this.box.scrollTop = 0;
  }

  breaks(i) {
    return i >= 0 && this.columns.piece[i].includes("⏎\x03");
  }

  full(line, next) {
    const count = line.childElementCount;
    return count >= LONGEST_LINE || (count >= LINE && next.startsWith("\x01·"));
  }

  paint(name, prompt) {
    const theme = themeOf(this.root);
    const signature = [name, prompt, theme].join();
    if (signature === this.painted) return;
    this.painted = signature;
    this.root.dataset.theme = theme;
    this.signal = this.data.signals.find((s) => s.name === name);
    if (!this.signal) { // the text alone, while its numbers are computed
      for (const token of this.tokens) token.classList.add("calm");
      this.legend.replaceChildren();
      return;
    }
    const map = this.data.maps[theme][this.signal.map];
    const values = this.columns[name];
    for (let i = 0; i < this.tokens.length; i += 1) {
      const token = this.tokens[i];
      const coloured = prompt || !(this.columns.flags[i] & PROMPT);
      const missing = coloured && Number.isNaN(values[i]);
      const step = coloured && !missing ? level(this.signal, values[i], map.colors.length) : this.signal.zero ?? 0;
      const calm = !coloured || missing || map.colors[step] === map.background;
      token.style.background = calm ? "" : map.colors[step];
      token.style.color = calm ? "" : map.inks[step];
      token.classList.toggle("missing", missing);
      token.classList.toggle("calm", calm);
    }
    this.drawLegend(map, prompt);
  }

  drawLegend(map, prompt) {
    const signal = this.signal;
    const parts = [element("span", "name", signal.title)];
    if (signal.map === "buckets") {
      signal.labels.forEach((label, k) => {
        const sample = element("span", "bucket", label);
        sample.style.background = map.colors[k];
        sample.style.color = map.inks[k];
        parts.push(sample);
      });
    } else {
      const ramp = element("span", "ramp");
      ramp.style.background = `linear-gradient(90deg, ${map.colors.join(",")})`;
      parts.push(element("span", "end", signal.labels[0]), ramp, element("span", "end", signal.labels[1]));
      if (signal.unit) parts.push(element("span", "unit", signal.unit));
    }
    const notes = [];
    const flags = this.columns.flags;
    if (flags.some((f) => f & PROMPT) && flags.some((f) => !(f & PROMPT))) {
      notes.push(prompt ? "prompt dimmed" : "prompt dimmed, not coloured");
    }
    if (flags.some((f) => f & ANSWER)) notes.push("answer underlined");
    if (this.tokens.some((t) => t.classList.contains("missing"))) notes.push("hatched: no value");
    if (notes.length) parts.push(element("span", "notes", notes.join(" · ")));
    this.legend.replaceChildren(...parts);
  }

  select(first, last) {
    if (!this.tokens.length) return;
    const [from, to] = [Math.min(first, last), Math.max(first, last)];
    for (const token of this.box.querySelectorAll(".selected")) {
      token.classList.remove("selected");
      token.removeAttribute("aria-selected");
    }
    for (let i = from; i <= to && i < this.tokens.length; i += 1) {
      this.tokens[i].classList.add("selected");
      this.tokens[i].setAttribute("aria-selected", "true");
      this.tokens[i].setAttribute("aria-label", this.spoken(i));
    }
    this.selection = [first, last];
    this.box.setAttribute("aria-activedescendant", `t${last}`);
  }

  // What a screen reader says; set on selection, since doing it for all costs as much as drawing.
  spoken(i) {
    const { name, title, map } = this.signal ?? {};
    const value = name ? `, ${title} ${number(this.columns[name][i], map === "buckets")}` : "";
    return bare(this.columns.piece[i]) + value;
  }

  // A person's choice: highlighted at once, reported after `wait` ms (keys may repeat fast).
  choose(first, last, wait) {
    this.select(first, last);
    this.stamp = Math.max(Date.now(), this.stamp + 1);
    clearTimeout(this.timer);
    const value = { signature: this.data.signature, first, last, stamp: this.stamp };
    this.timer = setTimeout(() => this.report("selection", value), wait);
  }

  click(event) {
    const token = event.target.closest(".t");
    if (!token) return;
    const i = Number(token.dataset.i);
    this.choose(event.shiftKey && this.selection ? this.selection[0] : i, i, 0);
  }

  // Tokens cannot be marked with the mouse, so copying takes the selected ones, as text again.
  copy(event) {
    if (!this.selection) return;
    const [from, to] = [Math.min(...this.selection), Math.max(...this.selection)];
    const text = this.columns.piece.slice(from, to + 1).map(written).join("");
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.tokens.length) return;
    const last = this.selection?.[1] ?? 0;
    let next = null;
    if (event.key in NAMES) next = last + NAMES[event.key];
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") next = this.vertical(last, event.key === "ArrowUp" ? -1 : 1);
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = this.tokens.length - 1;
    if (next === null) return;
    event.preventDefault();
    next = Math.min(Math.max(next, 0), this.tokens.length - 1);
    this.choose(event.shiftKey ? this.selection?.[0] ?? next : next, next, 120);
    this.tokens[next].scrollIntoView({ block: "nearest" });
  }

  // The token above or below: the nearest by its middle on the next row of text.
  vertical(from, step) {
    const here = this.tokens[from].getBoundingClientRect();
    const middle = (r) => (r.left + r.right) / 2;
    let row = null, best = from;
    for (let i = from + step; i >= 0 && i < this.tokens.length; i += step) {
      const there = this.tokens[i].getBoundingClientRect();
      if (Math.abs(there.top - here.top) < 4) continue;
      if (row === null) { row = there.top; best = i; }
      if (Math.abs(there.top - row) >= 4) break;
      const closer = Math.abs(middle(there) - middle(here)) < Math.abs(middle(this.tokens[best].getBoundingClientRect()) - middle(here));
      if (closer) best = i;
    }
    return best;
  }

  hover(token) {
    const i = token ? Number(token.dataset.i) : null;
    window.dispatchEvent(new CustomEvent("tokenscope:hover", { detail: { channel: this.data?.channel, position: i } }));
    if (i === null) {
      this.tip.hidden = true;
      return;
    }
    const columns = this.columns;
    const facts = element("dl");
    for (const { name, title, unit, map } of this.data.hover) {
      const value = number(columns[name][i], map === "buckets");
      facts.append(element("dt", "", title), element("dd", "", unit && value !== "–" ? `${value} ${unit}` : value));
    }
    const others = element("dl", "others");
    for (const k of [1, 2, 3]) {
      const piece = columns[`alternative_${k}`]?.[i];
      if (piece) others.append(fill(element("dt"), piece), element("dd", "", number(columns[`chance_${k}`][i])));
    }
    this.tip.replaceChildren(fill(element("div", "what"), columns.piece[i]), element("div", "where", `position ${i}`), facts);
    if (others.childElementCount) this.tip.append(element("div", "head", "most likely here"), others);
    this.tip.hidden = false;
    const at = token.getBoundingClientRect(), size = this.tip.getBoundingClientRect();
    const below = at.bottom + 8 + size.height < innerHeight;
    this.tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
    this.tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - size.height - 8)}px`;
  }
}

// Which colour a value gets: a place on the ramp, or the first bucket whose edge it does not pass.
function level(signal, value, steps) {
  if (signal.map === "buckets") {
    const k = signal.edges.findIndex((edge) => value <= edge);
    return k < 0 ? steps - 1 : k;
  }
  const share = (value - signal.low) / (signal.high - signal.low);
  return Math.round(Math.min(Math.max(share, 0), 1) * (steps - 1));
}

// Columns as plain arrays, from an Arrow table (app) or from JSON (page, notebook); null is NaN.
function reader(table) {
  const result = {};
  if (table.getChild) {
    for (const { name } of table.schema.fields) result[name] = plainArray(table.getChild(name));
  } else {
    for (const [name, values] of Object.entries(table)) {
      const text = name === "piece" || name.startsWith("alternative_");
      result[name] = text ? values : values.map((v) => v ?? NaN);
    }
  }
  return result;
}

function plainArray(vector) {
  const values = new Array(vector.length);
  for (let i = 0; i < vector.length; i += 1) values[i] = vector.get(i) ?? NaN;
  return values;
}
