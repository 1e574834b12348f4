// What curve and scatter share: the text they show, its selection, the token under the pointer.
// A person's choice is shown by every view at once (tokenscope:select) and then told to Python,
// whose answer (tokenscope:view) is taken over unless something newer was chosen meanwhile.
const KEYS_WAIT = 120; // ms: keys repeat fast

class Linked {
  constructor(parent, selector, source) {
    this.parent = parent;
    this.root = parent.querySelector(selector);
    this.root.view = this; // for tests and benchmarks
    this.source = source;
    this.selection = null;
    this.pointed = null;
    this.stamp = 0;
    this.report = () => {};
    const listeners = {
      "tokenscope:view": ({ detail }) => this.told(detail),
      "tokenscope:select": ({ detail }) => this.told({ ...detail, selection: [detail.first, detail.last] }),
      "tokenscope:hover": ({ detail }) => detail.channel === this.data?.channel && this.point(detail.position),
    };
    for (const [name, heard] of Object.entries(listeners)) window.addEventListener(name, heard);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    // The page's own colours follow the system a moment later.
    const themed = () => setTimeout(() => this.data && this.draw(), 60);
    dark.addEventListener("change", themed);
    const sized = new ResizeObserver(() => this.data && this.root.clientWidth !== this.width && this.draw());
    sized.observe(this.root);
    this.close = () => {
      for (const [name, heard] of Object.entries(listeners)) window.removeEventListener(name, heard);
      dark.removeEventListener("change", themed);
      sized.disconnect();
      clearTimeout(this.timer);
    };
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  // Constant data cost nothing: the signature says whether anything is new.
  update(data, report) {
    this.report = report ?? (() => {});
    const theme = themeOf(this.root);
    if (data.signature !== this.data?.signature) {
      if (data.text !== this.data?.text) {
        this.selection = null;
        this.stamp = 0;
      }
      this.data = data;
      this.columns = columnsOf(data.columns);
      this.last = data.offset + this.columns.length - 1;
      this.draw();
    } else if (theme !== this.root.dataset.theme) this.draw();
    const view = window.tokenscopeViews?.get(data.channel) ?? data.view;
    if (view) this.told(view);
  }

  told({ channel, signature, selection, stamp = 0 }) {
    if (!this.data || channel !== this.data.channel || signature !== this.data.text) return;
    if (!selection || stamp < this.stamp) return;
    this.stamp = stamp;
    this.selection = selection;
    this.showSelection();
  }

  // `settled` is false while a range is still being drawn with the mouse.
  choose(first, last, { wait = 0, settled = true } = {}) {
    if (!this.data) return;
    this.stamp = Math.max(Date.now(), this.stamp + 1);
    const value = { signature: this.data.text, first, last, stamp: this.stamp };
    const detail = { ...value, channel: this.data.channel, source: this.source };
    window.dispatchEvent(new CustomEvent("tokenscope:select", { detail }));
    clearTimeout(this.timer);
    if (settled) this.timer = setTimeout(() => this.report("selection", value), wait);
  }

  hover(position) {
    if (position === this.pointed) return;
    const detail = { channel: this.data?.channel, position };
    window.dispatchEvent(new CustomEvent("tokenscope:hover", { detail }));
  }

  point(position) {
    this.pointed = position;
    this.showPointed();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.data) return;
    const page = Math.max(1, Math.round(this.columns.length / 20));
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const from = this.selection?.[1] ?? this.data.offset;
    const next = Math.min(Math.max(from + steps[event.key], this.data.offset), this.last);
    this.choose(event.shiftKey ? this.selection?.[0] ?? next : next, next, { wait: KEYS_WAIT });
  }

  // Value of a column at a position of the text; NaN outside.
  at(name, position) {
    return this.columns[name]?.[position - this.data.offset] ?? NaN;
  }

  tipAt(box, position, facts, x, y) {
    const list = element("dl");
    for (const [title, value, unit] of facts) {
      list.append(element("dt", "", title), element("dd", "", unit && value !== "–" ? `${value} ${unit}` : value));
    }
    const piece = this.columns.piece(position - this.data.offset);
    box.replaceChildren(fill(element("div", "what"), piece), element("div", "where", `position ${number(position, true)}`), list);
    box.hidden = false;
    const size = box.getBoundingClientRect();
    const right = x + 14 + size.width < innerWidth;
    box.style.left = `${right ? x + 14 : Math.max(8, x - size.width - 14)}px`;
    box.style.top = `${Math.max(8, Math.min(y - 20, innerHeight - size.height - 8))}px`;
  }
}

// Float columns as they came (NaN where there is no value), tokens one at a time when asked for.
function columnsOf(table) {
  const columns = {};
  if (table.getChild) {
    columns.length = table.numRows;
    for (const { name } of table.schema.fields) {
      const vector = table.getChild(name);
      columns[name] = name === "piece" ? (i) => vector.get(i) ?? "" : vector.toArray();
    }
    return columns;
  }
  for (const [name, values] of Object.entries(table)) {
    columns.length = values.length;
    columns[name] = name === "piece" ? (i) => values[i] ?? "" : Float32Array.from(values, (v) => v ?? NaN);
  }
  return columns;
}

// Where a value lies on an axis, 0 to 1.
function share(axis, value) {
  const bend = { linear: (v) => v, log: (v) => Math.log(Math.max(v, 1e-30)), sqrt: (v) => Math.sqrt(Math.max(v, 0)) }[axis.scale];
  const [low, high] = [bend(axis.low), bend(axis.high)];
  return Math.min(Math.max((bend(value) - low) / (high - low), 0), 1);
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const place = (node, attributes) => {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value.toFixed(2));
};
const show = (node, shown) => node?.setAttribute("visibility", shown ? "visible" : "hidden");
