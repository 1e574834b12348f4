// Groups as horizontal bars: name, mean with its interval, count. A table, so that it can be read out.
const bars = new WeakMap();

export default function draw({ data, parentElement }) {
  const root = parentElement.querySelector(".ts-bars");
  let one = bars.get(parentElement);
  if (!one) {
    one = new Bars(root);
    bars.set(parentElement, one);
  }
  one.update(data);
  return () => {
    one.close();
    bars.delete(parentElement);
  };
}

class Bars {
  constructor(root) {
    this.root = root;
    this.tip = root.querySelector(".tip");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const themed = () => setTimeout(() => { root.dataset.theme = themeOf(root); }, 60);
    dark.addEventListener("change", themed);
    this.close = () => dark.removeEventListener("change", themed);
  }

  update(data) {
    this.root.dataset.theme = themeOf(this.root);
    if (data.signature === this.signature) return;
    this.signature = data.signature;
    this.axis = data.axis;
    this.root.querySelector(".name").textContent = data.title;
    this.root.querySelector(".aside").textContent = data.note;
    const head = element("thead"), body = element("tbody"), foot = element("tfoot");
    head.append(this.line(["th", "group", ""], ["th", "cell", ""], ["th", "", "mean"], ["th", "count", "tokens"]));
    for (const row of data.rows) body.append(this.row(row));
    foot.append(this.line(["td", "", ""], ["td", "cell", ""], ["td", "", ""], ["td", "", ""]));
    foot.querySelector(".cell").append(this.ticks());
    if (data.more) {
      const rest = element("td", "more", `${data.more.toLocaleString("en-US")} more in the table below.`);
      rest.colSpan = 4;
      const line = element("tr");
      line.append(rest);
      foot.append(line);
    }
    this.root.querySelector("table").replaceChildren(head, body, foot);
    this.tip.hidden = true;
  }

  line(...cells) {
    const line = element("tr");
    for (const [tag, name, text] of cells) line.append(element(tag, name, text));
    return line;
  }

  row(row) {
    const line = this.line(["th", "", ""], ["td", "cell", ""], ["td", "mean", row.shown], ["td", "count", row.count]);
    const name = line.firstChild;
    name.scope = "row";
    if (row.piece === null) name.textContent = row.name;
    else name.append(fill(element("span", "token"), row.piece));
    const track = element("div", "track");
    const zero = this.at(0), mean = this.at(row.mean);
    track.append(this.piece("bar", Math.min(zero, mean), Math.max(zero, mean)));
    if (this.axis.low < 0) track.append(this.piece("zero", zero));
    if (row.low !== null) track.append(this.piece("whisker", this.at(row.low), this.at(row.high)));
    line.children[1].append(track);
    line.addEventListener("pointermove", (event) => this.tell(row, event.clientX, event.clientY));
    line.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    line.tabIndex = 0;
    line.addEventListener("focus", () => {
      if (!line.matches(":focus-visible")) return;
      const box = line.getBoundingClientRect();
      this.tell(row, box.left + 60, box.bottom);
    });
    line.addEventListener("blur", () => { this.tip.hidden = true; });
    return line;
  }

  // Share of the track's width, 0 to 1.
  at(value) {
    const { low, high } = this.axis;
    return Math.min(Math.max((value - low) / (high - low), 0), 1);
  }

  piece(name, from, to) {
    const part = element("span", name);
    part.style.left = `${(100 * from).toFixed(3)}%`;
    if (to !== undefined) part.style.width = `${(100 * (to - from)).toFixed(3)}%`;
    return part;
  }

  ticks() {
    const ticks = element("div", "axis");
    for (const [value, text] of this.axis.ticks) {
      const tick = element("span", "", text);
      tick.style.left = `${(100 * this.at(value)).toFixed(3)}%`;
      ticks.append(tick);
    }
    return ticks;
  }

  tell(row, x, y) {
    const list = element("dl");
    for (const [label, value] of row.facts) list.append(element("dt", "", label), element("dd", "", value));
    const what = element("div", "what");
    if (row.piece === null) what.textContent = row.name;
    else fill(what, row.piece);
    this.tip.replaceChildren(what, element("div", "where", row.detail), list);
    this.tip.hidden = false;
    const size = this.tip.getBoundingClientRect();
    const right = x + 14 + size.width < innerWidth;
    this.tip.style.left = `${right ? x + 14 : Math.max(8, x - size.width - 14)}px`;
    this.tip.style.top = `${Math.max(8, Math.min(y + 14, innerHeight - size.height - 8))}px`;
  }
}
