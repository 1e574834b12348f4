// The group view: all rollouts of one prompt under each other, coloured by one value. Of long
// groups only what is near the view is in the DOM (blocks.js). grouprows.js has heads and folding, groupkeys.js the keys.
const groups = new WeakMap();
// What a reader had selected, folded and scrolled to, for when the same group is mounted again.
const memories = (window.tokenscopeGroups ??= new Map());
const MEMORIES = 20;
const SHADED = 8;

export default function group({ data, parentElement, setStateValue }) {
  let one = groups.get(parentElement);
  if (!one) {
    one = new Group(parentElement);
    groups.set(parentElement, one);
  }
  one.report = setStateValue ?? (() => {});
  one.update(data);
  return () => {
    one.close();
    groups.delete(parentElement);
  };
}

class Group {
  constructor(parent) {
    this.root = parent.querySelector(".ts-group");
    for (const [name, place] of Object.entries({ box: "tokens", legend: "legend", tip: "tip" })) {
      this[name] = this.root.querySelector(`.${place}`);
    }
    this.root.group = this; // for tests and benchmarks
    this.ended = new AbortController();
    this.while = { signal: this.ended.signal };
    this.at = -1; // the selected token, counted through all rollouts
    this.marks = new Map();
    this.blocks = new Blocks(this.box, (i) => this.draw(i), () => this.moved(), this.while);
    this.parts = new Rollouts(this);
    new GroupHands(this);
    this.listen();
  }

  listen() {
    const heard = (name) => window.addEventListener(name, ({ detail }) => this.told(detail), this.while);
    heard("tokenscope:view");
    heard("tokenscope:select");
    // The page's own colours follow the system a moment later.
    const themed = () => setTimeout(() => this.data && this.paint(), 60);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed, this.while);
    this.box.addEventListener("scroll", () => this.scrolled(), { passive: true, ...this.while });
  }

  close() {
    this.ended.abort();
    this.blocks.close();
    for (const timer of [this.timer, this.rest, this.settling]) clearTimeout(timer);
  }

  update(data) {
    const before = this.data;
    const another = data.text !== before?.text || data.channel !== before?.channel;
    const rebuilt = data.signature !== before?.signature;
    this.data = data;
    const kept = another ? this.recall() : null;
    if (rebuilt || data.values !== before.values) {
      this.columns = new Columns(data.columns);
      this.length = this.columns.word.length;
      this.painted = null;
    }
    this.box.style.maxHeight = data.height ? `${data.height}px` : "";
    if (rebuilt) this.index();
    this.setMarks(data.marks, rebuilt);
    this.paint(rebuilt);
    if (rebuilt) {
      this.hover(null);
      this.at = -1;
      this.build();
    }
    if (!this.drawn) {
      this.drawn = true; // the page may now send what is below
      requestAnimationFrame(() => this.report("drawn", true));
    }
    this.parts.say();
    if (rebuilt || another) this.select(this.chosen ? this.indexOf(this.chosen.rollout, this.chosen.position) : -1);
    if (kept?.signature === data.signature) this.blocks.restore(kept.top);
    const told = window.tokenscopeViews?.get(data.channel);
    if (told) this.told(told);
    this.remember();
  }

  get name() {
    return `${this.data.channel}/${this.data.text}`;
  }

  recall() {
    const kept = memories.get(this.name);
    this.parts.folded = new Set(kept?.folded);
    this.chosen = kept?.chosen ?? null;
    this.stamp = kept?.stamp ?? 0;
    return kept;
  }

  remember() {
    const { chosen, stamp, parts: { folded } } = this;
    memories.delete(this.name);
    memories.set(this.name, { folded: [...folded], chosen, stamp, top: this.blocks.kept, signature: this.data.signature });
    if (memories.size > MEMORIES) memories.delete(memories.keys().next().value);
  }

  // Which rollout each token belongs to.
  index() {
    const { rows } = this.data;
    this.long = this.data.words.map((markup) => bare(markup).length > LONG);
    this.byNumber = new Map(rows.map((row, k) => [row.number, k]));
    this.owner = new Uint32Array(this.length);
    rows.forEach((row, k) => this.owner.fill(k, row.first, row.first + row.count));
  }

  rowOf(i) {
    return this.data.rows[this.owner[i]];
  }

  positionOf(i) {
    const row = this.rowOf(i);
    return row.start + i - row.first;
  }

  indexOf(rollout, position) {
    const row = this.data.rows[this.byNumber.get(rollout)];
    const offset = row ? position - row.start : -1;
    return Number.isInteger(offset) && offset >= 0 && offset < row.count ? row.first + offset : -1;
  }

  build() {
    const { word } = this.columns;
    const looks = looksOf(this.data.words);
    this.box.setAttribute("aria-rowcount", this.data.rows.length);
    this.blocks.build({
      count: this.length,
      ends: (i) => i >= 0 && looks[word[i]].ends,
      word: (i) => looks[word[i]].word,
      width: (i) => looks[word[i]].width,
      begins: (i) => this.rowOf(i).first === i,
      place: (blocks) => this.parts.place(blocks),
    });
    this.box.style.setProperty("--row", `${this.blocks.row}px`);
  }

  // Runs for hundreds of tokens in one frame: nothing is set that is not needed.
  draw(i) {
    const { word, flags } = this.columns;
    let look = "t";
    if (flags[i] & SPECIAL) look += " special";
    if (flags[i] & SHADED) look += " shaded";
    if (this.long[word[i]]) look += " long";
    const token = fill(element("span", look), this.piece(i));
    token.dataset.i = i;
    token.setAttribute("role", "gridcell");
    this.tint(token, i);
    if (this.marks.has(i)) this.flag(token, i);
    if (i === this.at) this.outline(token, i);
    return token;
  }

  piece(i) {
    return this.data.words[this.columns.word[i]];
  }

  // Levels of all tokens; `later` leaves those in the DOM to be built anew.
  paint(later = false) {
    const theme = themeOf(this.root);
    if (this.painted === theme) return;
    this.painted = theme;
    this.root.dataset.theme = theme;
    const { signal, maps } = this.data;
    const { colors, inks, background, dimmed } = maps[theme];
    const values = this.columns.signal("value"), { flags } = this.columns;
    this.levels = new Int16Array(this.length);
    for (let i = 0; i < this.length; i += 1) {
      this.levels[i] = Number.isNaN(values[i]) ? MISSING : level(signal, values[i], colors.length);
    }
    const calm = colors.indexOf(background);
    Object.assign(this, { full: { colors, inks, calm }, dimmed: { ...dimmed, calm } });
    const remarks = flags.some((f) => f & SHADED) ? ["dimmed, dotted: outside the loss"] : [];
    const parts = legendOf({ signal, colors, inks, columns: this.columns, levels: this.levels, remarks });
    // A diverging map has its zero in the middle, where the page's background is.
    if (signal.map === "diverging") parts.find((p) => p.className === "ramp").append(element("span", "zero", "0"));
    this.legend.replaceChildren(...parts);
    this.legend.title = signal.doc;
    if (!later) this.blocks.nodes.forEach((token, i) => token && this.tint(token, i));
  }

  tint(token, i) {
    tintToken(token, this.levels[i], this.columns.flags[i] & SHADED ? this.dimmed : this.full);
  }

  select(i) {
    const old = this.blocks.nodes[this.at];
    this.at = i;
    if (old) {
      old.classList.remove("selected");
      for (const name of ["aria-selected", "id", "aria-label", "aria-colindex"]) old.removeAttribute(name);
    }
    if (i < 0) return this.box.removeAttribute("aria-activedescendant");
    this.chosen = { rollout: this.rowOf(i).number, position: this.positionOf(i) };
    this.blocks.pin(i);
    this.outline(this.blocks.nodes[i], i);
    this.box.setAttribute("aria-activedescendant", `g${i}`);
  }

  outline(token, i) {
    const row = this.rowOf(i), { signal } = this.data;
    const mark = this.marks.get(i);
    token.classList.add("selected");
    token.setAttribute("aria-selected", "true");
    token.id = `g${i}`;
    token.setAttribute("aria-colindex", i - row.first + 1);
    const value = number(this.columns.signal("value")[i], signal.whole);
    token.setAttribute("aria-label", `${bare(this.piece(i))}, ${row.label}, ${signal.title} ${value}${mark ? `, ${mark}` : ""}`);
  }

  // A person's choice: shown at once, told to other views of the channel, reported after `wait` ms.
  choose(i, wait, { follow = false } = {}) {
    this.select(i);
    this.stamp = Math.max(Date.now(), this.stamp + 1);
    const value = { ...this.chosen, stamp: this.stamp };
    if (follow) {
      this.reveal(i);
      this.blocks.nodes[i].scrollIntoView({ block: "nearest" });
    }
    this.speaking = true;
    const detail = { ...value, channel: this.data.channel, signature: this.data.text, source: "group" };
    window.dispatchEvent(new CustomEvent("tokenscope:select", { detail }));
    this.speaking = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.report("token", value), wait);
    this.remember();
  }

  // A selection from elsewhere: Python, or another view. One that is older than ours is an echo.
  told({ channel, signature, rollout, position, stamp = 0, reveal = false }) {
    if (this.speaking || !this.data || channel !== this.data.channel || rollout === undefined) return;
    if (signature !== undefined && signature !== this.data.text) return;
    const i = this.indexOf(rollout, position);
    if (i < 0 || stamp < this.stamp) return;
    this.stamp = stamp;
    if (i === this.at) return;
    this.select(i);
    if (stamp > 0 || reveal) this.reveal(i);
    this.remember();
  }

  // Scrolls to a token; where folding hides it, its rollout is unfolded.
  reveal(i) {
    this.parts.uncover(i);
    this.blocks.reveal(i);
  }

  // Flagged tokens: [rollout, position, text]; `later` leaves those in the DOM to be built anew.
  setMarks(list, later) {
    const marks = new Map(list.map(([rollout, position, text]) => [this.indexOf(rollout, position), text]));
    if (!later && JSON.stringify([...marks]) === JSON.stringify([...this.marks])) return;
    const old = [...this.marks.keys()];
    this.marks = marks;
    if (later) return;
    for (const token of old.map((i) => this.blocks.nodes[i])) {
      token?.classList.remove("mark", "note", "left");
      if (token) delete token.dataset.flag;
    }
    for (const i of marks.keys()) if (this.blocks.nodes[i]) this.flag(this.blocks.nodes[i], i);
    this.moved();
  }

  flag(token, i) {
    token.classList.add("mark", "note");
    if (this.marks.get(i)) token.dataset.flag = this.marks.get(i);
  }

  // Tokens came, went or have another place.
  moved() {
    for (const [i, text] of this.marks) {
      const token = this.blocks?.nodes[i];
      if (token) hangFlag(token, this.box, text);
    }
  }

  scrolled() {
    this.hover(null);
    this.blocks.near();
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.blocks.remember();
      this.remember();
    }, 150);
  }

  hover(token) {
    const i = token ? Number(token.dataset.i) : null;
    if (i === this.hovered) return;
    this.hovered = i;
    this.tip.hidden = i === null;
    if (i === null) return;
    const { signal } = this.data;
    const value = number(this.columns.signal("value")[i], signal.whole);
    const facts = element("dl");
    facts.append(element("dt", "", signal.title), element("dd", "", signal.unit && value !== "–" ? `${value} ${signal.unit}` : value));
    const where = `${this.rowOf(i).label} · position ${number(this.positionOf(i), true)}`;
    const parts = [fill(element("div", "what"), this.piece(i)), element("div", "where", where), facts];
    if (this.columns.flags[i] & SHADED) parts.push(element("div", "head", "outside the loss"));
    if (this.marks.get(i)) parts.push(element("div", "head", this.marks.get(i)));
    this.tip.replaceChildren(...parts);
    this.tip.classList.toggle("much", this.long[this.columns.word[i]]);
    placeTip(this.tip, token);
  }
}
