// The flow graph: question, reasoning and answer in columns, edges as ribbons between them. Its
// parts: flowlayout.js (where everything is), flowexport.js (files), flowread.js (words),
// flowhands.js (mouse and keys). Edges are drawn on a canvas, tokens as SVG above it.
const graphs = new WeakMap();

export default function flowgraph({ data, parentElement, setStateValue }) {
  let one = graphs.get(parentElement);
  if (!one) {
    one = new FlowGraph(parentElement);
    graphs.set(parentElement, one);
  }
  one.update(data, setStateValue);
  return () => {
    one.close();
    graphs.delete(parentElement);
  };
}

class FlowGraph extends Linked {
  constructor(parent) {
    super(parent, ".ts-flow", "flow");
    const find = (name) => this.root.querySelector(name);
    this.plot = find(".plot");
    this.nodes = find(".nodes");
    [this.base, this.above] = this.root.querySelectorAll("canvas");
    this.tip = find(".tip");
    this.slider = find(".share");
    this.here = 0; // the item the keyboard is at
    this.ribbons = [];
    this.hands = new FlowHands(this);
    this.slider.addEventListener("input", () => this.keep(Number(this.slider.value)));
    const buttons = { ".save-svg": () => saveSvg(this), ".save-png": () => savePng(this), ".refold": () => this.refold() };
    for (const [name, act] of Object.entries(buttons)) find(name).addEventListener("click", act);
  }

  key(event) {
    if (this.data) this.hands.key(event);
  }

  update(data, report) {
    if (data.signature !== this.data?.signature) {
      const another = data.text !== this.data?.text;
      this.edges = edgesOf(data.edges);
      this.runs = data.folds;
      this.share = another || this.share === undefined ? data.share : Math.min(this.share, data.most_share);
      this.lit = this.chosen = null;
      this.here = 0;
      const most = Math.floor(100 * data.most_share + 1e-9) / 100;
      Object.assign(this.slider, { min: String(Math.min(0.05, most)), max: String(most), value: String(this.share) });
    }
    super.update(data, report);
  }

  get graph() {
    return { columns: this.columns, labels: this.data.labels, offset: this.data.offset };
  }

  // Everything: new data, another width, another theme, a run opened.
  draw() {
    const { data } = this;
    const theme = (this.root.dataset.theme = themeOf(this.root));
    this.width = this.root.clientWidth;
    this.colors = data.colors[theme];
    this.ramp = data.ramps[theme];
    this.root.querySelector(".name").textContent = data.title;
    this.root.querySelector(".aside").textContent = data.note;
    this.root.querySelector(".refold").hidden = this.runs === data.folds;
    this.layout = layoutOf(itemsOf(this.graph, this.runs), this.width || 960);
    // One scale for every share, so that moving the slider changes no colour.
    const all = ribbonsOf(this.edges, this.layout, data.offset, this.edges.needed.length);
    this.mostFlow = all.at(-1)?.flow ?? 1e-30;
    this.here = Math.min(this.here, this.layout.items.length - 1);
    this.shapes();
    this.root.querySelector(".legend").replaceChildren(...flowLegend(this));
    this.keep(this.share);
  }

  // The tokens: drawn once, then only made strong or quiet.
  shapes() {
    const { layout, nodes, colors } = this;
    this.plot.style.width = `${layout.width}px`;
    this.plot.style.height = `${layout.height}px`;
    for (const [name, value] of [["width", layout.width], ["height", layout.height]]) nodes.setAttribute(name, value.toFixed(0));
    nodes.setAttribute("aria-label", `${this.data.title}: arrow keys move between tokens, Enter selects one`);
    const heads = layout.heads.flatMap((head) => headShape(head, colors));
    nodes.replaceChildren(...heads, ...layout.items.map((item, n) => this.shape(item, n)));
    this.groups = [...nodes.querySelectorAll("[data-n]")];
  }

  shape(item, n) {
    const group = svg("g", { class: item.folded ? "node folded" : "node", role: "button", tabindex: n === this.here ? 0 : -1 });
    group.dataset.n = n;
    const facts = factsOf(item, this.graph).map((fact) => fact.join(" ")).join(", ");
    group.setAttribute("aria-label", `${nameOf(item)}, ${whereOf(item)}, ${facts}${item.folded ? ": opens" : ""}`);
    const box = svg("rect", { class: "box", x: item.x - DOT - 1, y: item.y - ROW / 2 + 1, width: item.right - item.x + DOT + 4, height: ROW - 2, rx: 3 });
    group.append(box, ...itemShape(item, this.layout.most, this.colors, this.ramp, true));
    return group;
  }

  // The slider: edges that a share needs, and nothing else is drawn anew.
  keep(share) {
    this.share = share;
    const { data, edges } = this;
    const count = taken(edges.needed, share);
    this.ribbons = ribbonsOf(edges, this.layout, data.offset, count);
    const strong = touchedBy(this.ribbons);
    this.groups.forEach((group, n) => group.classList.toggle("faint", !strong.has(n)));
    const percent = `${Math.round(100 * share)} %`;
    const drawn = `${number(count, true)} of ${number(data.total_edges, true)} edges`;
    this.kept = { count, sentence: `share of flow kept ${percent}: ${drawn}` };
    this.root.querySelector(".kept").textContent = percent;
    this.root.querySelector(".drawn").textContent = drawn;
    this.slider.setAttribute("aria-valuetext", `${percent}, ${drawn}`);
    paintRibbons(this.pen(this.base), this.ribbons, this);
    this.showSelection();
  }

  pen(canvas) {
    const scale = devicePixelRatio || 1;
    const [wide, tall] = [Math.round(this.layout.width * scale), Math.round(this.layout.height * scale)];
    if (canvas.width !== wide || canvas.height !== tall) Object.assign(canvas, { width: wide, height: tall });
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, this.layout.width, this.layout.height);
    return pen;
  }

  itemAt(position) {
    return this.layout.items.findIndex((item) => item.first <= position && position <= item.last);
  }

  // A token or an edge a person chose is shown with its edges; a page's own choice by its outline.
  told(message) {
    const before = this.selection?.join();
    super.told(message);
    if (!this.data || message.signature !== this.data.text || this.selection?.join() === before) return;
    this.chosen = null;
    this.lit = this.stamp > 0 ? true : null;
    this.showSelection();
  }

  selected() {
    if (!this.selection || !this.layout) return [];
    const [from, to] = [Math.min(...this.selection), Math.max(...this.selection)];
    return this.layout.items.flatMap((item, n) => (item.last >= from && item.first <= to ? [n] : []));
  }

  showSelection() {
    if (!this.groups) return;
    const chosen = new Set(this.selected());
    const edge = this.chosen && this.ribbons.find((r) => r.members.includes(this.chosen.member) && r.members.length === this.chosen.size);
    let bright = [];
    if (edge) bright = [edge];
    else if (this.lit) bright = this.ribbons.filter((r) => chosen.has(r.source) || chosen.has(r.target));
    const near = touchedBy(bright);
    this.groups.forEach((group, n) => {
      group.classList.toggle("chosen", chosen.has(n));
      group.setAttribute("aria-pressed", String(chosen.has(n)));
      group.classList.toggle("dimmed", bright.length > 0 && !near.has(n) && !chosen.has(n));
    });
    this.base.classList.toggle("dimmed", bright.length > 0);
    paintRibbons(this.pen(this.above), bright, this);
    this.numbers(edge ? [] : bright, chosen);
    this.readout(edge, chosen);
  }

  // What flows to or from the selected token, beside the token at the other end.
  numbers(bright, chosen) {
    this.nodes.querySelectorAll(".amount").forEach((node) => node.remove());
    if (chosen.size !== 1) return;
    for (const { source, target, flow } of bright.slice(-2 * LISTED)) {
      const item = this.layout.items[chosen.has(source) ? target : source];
      this.nodes.append(svg("text", { class: "amount", x: item.right + 5, y: item.y + 4 }, number(flow)));
    }
  }

  readout(edge, chosen) {
    const act = {
      graph: this.graph,
      label: (position) => this.data.labels[position - this.data.offset],
      ribbon: (ribbon) => this.takeRibbon(ribbon),
      edge: (member) => this.tellEdge(member),
    };
    const box = this.root.querySelector(".readout");
    const one = chosen.size === 1 && this.lit ? [...chosen][0] : null;
    if (edge) box.replaceChildren(...ribbonReadout(edge, this.layout, this.edges, act));
    else if (one !== null) box.replaceChildren(...itemReadout(one, this.ribbons, this.layout, act));
    else if (this.lit && !chosen.size) box.replaceChildren(element("div", "quiet", "The selected token is outside question and answer: no flow passes it."));
    else box.replaceChildren(element("div", "quiet", "Click a token to see what it draws from and feeds; click an edge for what carries it."));
  }

  // An item is clicked: a folded run opens, a token is selected.
  take(n) {
    const item = this.layout.items[n];
    if (item.folded) {
      const within = opened([item.first, item.last + 1], this.graph);
      this.runs = [...this.runs.filter(([start]) => start !== item.first), ...within].sort((a, b) => a[0] - b[0]);
      this.hoverAt(null);
      this.draw();
      this.focusOn(this.itemAt(item.first));
      return;
    }
    this.chosen = null;
    this.lit = true;
    this.here = n;
    this.choose(item.first, item.first);
    this.showSelection();
  }

  takeRibbon(ribbon) {
    if (ribbon.members.length === 1) this.tellEdge(ribbon.members[0]);
    this.chosen = { member: ribbon.members[0], size: ribbon.members.length };
    this.showSelection();
  }

  // One edge is told to Python, which knows the heads that carry it.
  tellEdge(member) {
    const edge = [this.edges.source[member], this.edges.target[member]];
    this.edgeStamp = Math.max(Date.now(), (this.edgeStamp ?? 0) + 1);
    this.report("edge", { signature: this.data.text, edge, stamp: this.edgeStamp });
  }

  calm() {
    this.lit = this.chosen = null;
    this.showSelection();
  }

  refold() {
    this.runs = this.data.folds;
    this.draw();
  }

  focusOn(n) {
    this.groups[this.here]?.setAttribute("tabindex", -1);
    this.here = n;
    this.groups[n].setAttribute("tabindex", 0);
    this.groups[n].focus();
  }

  hoverAt(found, x, y) {
    const item = found?.item === undefined ? null : this.layout.items[found.item];
    this.hover(item && !item.folded ? item.first : null);
    this.plot.classList.toggle("over", Boolean(found));
    this.tip.hidden = !found;
    if (!found) return;
    this.tip.replaceChildren(...(item ? itemTip(item, this.graph) : ribbonTip(found.ribbon, this.layout.items, this.edges)));
    const size = this.tip.getBoundingClientRect();
    const right = x + 14 + size.width < innerWidth;
    this.tip.style.left = `${right ? x + 14 : Math.max(8, x - size.width - 14)}px`;
    this.tip.style.top = `${Math.max(8, Math.min(y + 12, innerHeight - size.height - 8))}px`;
  }

  showPointed() {
    if (!this.groups) return;
    const at = this.pointed === null ? -1 : this.itemAt(this.pointed);
    this.groups.forEach((group, n) => group.classList.toggle("pointed", n === at));
  }
}

function paintRibbons(pen, ribbons, { mostFlow, ramp }) {
  for (const { curve, flow } of ribbons) {
    pen.strokeStyle = shadeOf(flow, mostFlow, ramp);
    pen.lineWidth = strokeOf(flow, mostFlow);
    pen.lineCap = pen.lineWidth > 2 ? "round" : "butt"; // most are thin: half the time
    pen.beginPath();
    pen.moveTo(curve[0], curve[1]);
    pen.bezierCurveTo(curve[2], curve[3], curve[4], curve[5], curve[6], curve[7]);
    pen.stroke();
  }
}

// Columns of an Arrow table (app) or of JSON (page); shares as they came, so that none is rounded.
function edgesOf(table) {
  const read = (name) => (table.getChild ? table.getChild(name).toArray() : Float64Array.from(table[name]));
  return Object.fromEntries(["source", "target", "flow", "weight", "needed"].map((name) => [name, read(name)]));
}
