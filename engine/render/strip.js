// The token strip: draws the tokens, colours them by one signal, keeps the selection. `data` is
// constant for one text; what changes (signal, selection, marks) comes over the bus. Its parts:
// blocks.js (what is in the DOM), stripdata.js (columns), striptips.js (legend, hover),
// striptools.js (find, jump), condition.js, minimap.js, striphands.js (mouse, keys, copying).
const strips = new WeakMap();
// Where a reader was in a text, for when the same text is mounted again.
const memories = (window.tokenscopeStrips ??= new Map());
const MEMORIES = 30;

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
    this.ended = new AbortController();
    this.while = { signal: this.ended.signal }; // for listeners: as long as this strip is there
    this.selection = null;
    this.pointed = null;
    this.stamp = 0;
    this.marks = new Map();
    this.blocks = new Blocks(this.box, (i) => this.draw(i), () => this.moved(), this.while);
    this.map = new Minimap(this);
    this.tools = new Tools(this);
    new Hands(this);
    this.listen();
  }

  listen() {
    const heard = {
      "tokenscope:view": ({ detail }) => this.view(detail),
      "tokenscope:select": ({ detail }) => this.told(detail),
      "tokenscope:hover": ({ detail }) => detail.channel === this.data?.channel && this.point(detail.position),
    };
    for (const [name, act] of Object.entries(heard)) window.addEventListener(name, act, this.while);
    // The page's own colours follow the system a moment later.
    const themed = () => setTimeout(() => this.data && this.paint(this.signal?.name, this.prompt), 60);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed, this.while);
    this.box.addEventListener("scroll", () => this.scrolled(), { passive: true, ...this.while });
  }

  close() {
    this.ended.abort();
    this.blocks.close();
    this.map.close();
    clearTimeout(this.timer);
    clearTimeout(this.rest);
    clearTimeout(this.settling);
    strips.delete(this.parent);
  }

  update(data) {
    const before = this.data;
    const rebuilt = data.signature !== before?.signature;
    const another = data.text !== before?.text || data.channel !== before?.channel;
    const fresh = rebuilt || data.values !== before.values;
    this.data = data;
    if (another) {
      this.selection = null;
      this.stamp = 0;
    }
    const kept = another ? memories.get(this.name) : null;
    if (fresh) {
      this.columns = new Columns(data.columns);
      this.length = this.columns.word.length;
      this.long = data.words.map((markup) => bare(markup).length > LONG);
      this.painted = null;
    }
    if (rebuilt) this.build();
    if (fresh || another) this.tools.update(data, kept);
    const told = window.tokenscopeViews?.get(data.channel);
    this.setMarks(told?.signature === data.text && told.marks ? told.marks : data.marks);
    if (kept) {
      this.blocks.restore(kept.top);
      this.head = kept.head;
    } else if (another) this.head = undefined;
    const view = told ?? data.view;
    if (view) this.view(view);
    if (!this.painted && before) this.paint(this.signal?.name, this.prompt);
    if (rebuilt) this.map.draw(); // at once: it takes room from the text
    this.remember();
  }

  get name() {
    return `${this.data.channel}/${this.data.text}`;
  }

  // What Python says: which signal, which tokens. An echo older than the last choice is ignored.
  view(view) {
    if (!this.data || view.channel !== this.data.channel) return;
    this.paint(view.signal, Boolean(view.prompt));
    if (view.signature === this.data.text) {
      if (view.marks) this.setMarks(view.marks);
      if (view.selection) this.told({ ...view, first: view.selection[0], last: view.selection[1] });
    }
    if (!this.drawn && this.painted) {
      this.drawn = true; // the page may now send what is below
      requestAnimationFrame(() => this.report("drawn", true));
    }
  }

  // A selection from elsewhere: another view, or Python. What a person chose is scrolled to.
  told({ channel, signature, first, last, stamp = 0, reveal = false }) {
    if (this.speaking || !this.data || channel !== this.data.channel || signature !== this.data.text) return;
    if (stamp < this.stamp || !this.length) return;
    this.stamp = stamp;
    if (this.selection?.[0] === first && this.selection[1] === last) return;
    this.select(first, last);
    if ((stamp > 0 || reveal) && this.head !== this.selection[1]) this.blocks.reveal(this.selection[1]);
    this.head = undefined; // where the reader was counts once, for the selection of that time
  }

  build() {
    const { words } = this.data;
    const { word } = this.columns;
    const looks = looksOf(words);
    this.levels = null;
    this.hits = new Uint8Array(this.length);
    this.blocks.build({
      count: this.length,
      ends: (i) => i >= 0 && looks[word[i]].ends,
      word: (i) => looks[word[i]].word,
      width: (i) => looks[word[i]].width,
    });
  }

  // Runs for hundreds of tokens in one frame: nothing is set that is not needed.
  draw(i) {
    const { word, flags } = this.columns;
    let look = "t";
    if (flags[i] & PROMPT) look += " prompt";
    if (flags[i] & ANSWER) look += " answer";
    if (flags[i] & SPECIAL) look += " special";
    if (this.long[word[i]]) look += " long";
    if (this.hits[i]) look += " hit";
    if (i === this.pointed) look += " pointed";
    const token = fill(element("span", look), this.piece(i));
    token.dataset.i = i;
    token.setAttribute("role", "option");
    if (this.levels) this.tint(token, i);
    if (this.marks.has(i)) this.flag(token, i);
    if (this.selects(i)) this.outline(token, i);
    return token;
  }

  piece(i) {
    return this.data.words[this.columns.word[i]];
  }

  paint(wanted, prompt) {
    const { signals } = this.data;
    const name = (signals.find((s) => s.name === wanted) ?? signals[0])?.name;
    const theme = themeOf(this.root);
    const signature = [name, prompt, theme].join();
    if (signature === this.painted) return;
    this.painted = signature;
    this.root.dataset.theme = theme;
    this.prompt = prompt;
    this.signal = signals.find((s) => s.name === name);
    this.levels = new Int16Array(this.length).fill(PLAIN);
    this.colors = null;
    this.legend.replaceChildren();
    if (this.signal) { // else the text alone, while its numbers are computed
      const { colors, inks, background } = this.data.maps[theme][this.signal.map];
      const calm = colors.indexOf(background);
      Object.assign(this, { colors, inks, calm });
      const values = this.columns.signal(name);
      const { flags } = this.columns;
      for (let i = 0; i < this.length; i += 1) {
        if (!prompt && flags[i] & PROMPT) continue;
        this.levels[i] = Number.isNaN(values[i]) ? MISSING : level(this.signal, values[i], colors.length);
      }
      this.legend.replaceChildren(...legendOf(this));
    }
    this.blocks.nodes.forEach((token, i) => token && this.tint(token, i));
    this.map.soon(true);
  }

  // How far a level is from the ordinary: in a diverging map both ends are far.
  strength = (level) => Math.abs(level - this.calm);

  tint(token, i) {
    tintToken(token, this.levels[i], this);
  }

  selects(i) {
    return this.selection !== null && Math.min(...this.selection) <= i && i <= Math.max(...this.selection);
  }

  select(first, last) {
    const inside = (i) => Math.min(Math.max(i, 0), this.length - 1);
    for (const token of this.box.querySelectorAll(".selected")) {
      token.classList.remove("selected", "stretch", "begin", "end");
      token.removeAttribute("aria-selected");
      token.removeAttribute("id");
    }
    this.selection = [inside(first), inside(last)];
    this.blocks.pin(this.selection[1]);
    const [from, to] = [Math.min(...this.selection), Math.max(...this.selection)];
    for (let i = from; i <= to; i += 1) if (this.blocks.nodes[i]) this.outline(this.blocks.nodes[i], i);
    this.box.setAttribute("aria-activedescendant", `t${this.selection[1]}`);
    this.tools.say();
    this.map.soon();
    this.remember();
  }

  outline(token, i) {
    const [from, to] = [Math.min(...this.selection), Math.max(...this.selection)];
    token.classList.add("selected");
    if (from < to) token.classList.add("stretch");
    if (from < to && i === from) token.classList.add("begin");
    if (from < to && i === to) token.classList.add("end");
    token.setAttribute("aria-selected", "true");
    if (i !== this.selection[1]) return;
    // For the last one what a screen reader says; for all, that costs as much as drawing them.
    token.id = `t${i}`;
    token.setAttribute("aria-label", this.spoken(i));
    token.setAttribute("aria-posinset", i + 1);
    token.setAttribute("aria-setsize", this.length);
  }

  spoken(i) {
    const { name, title, whole } = this.signal ?? {};
    const value = name ? `, ${title} ${number(this.columns.signal(name)[i], whole)}` : "";
    const mark = this.marks.get(i)?.text;
    return bare(this.piece(i)) + value + (mark ? `, ${mark}` : "");
  }

  // A person's choice: shown here and in the other views at once, reported after `wait` ms.
  choose(first, last, wait, { follow = false } = {}) {
    this.select(first, last);
    this.stamp = Math.max(Date.now(), this.stamp + 1);
    const value = { signature: this.data.text, first, last, stamp: this.stamp };
    const detail = { ...value, channel: this.data.channel, source: "strip" };
    this.say("tokenscope:select", detail);
    if (follow) {
      this.blocks.reveal(last);
      this.blocks.nodes[last].scrollIntoView({ block: "nearest" });
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.report("selection", value), wait);
  }

  say(name, detail) {
    this.speaking = true;
    window.dispatchEvent(new CustomEvent(name, { detail }));
    this.speaking = false;
  }

  // Flagged tokens: a culprit, a guess. They come with the data or over the bus.
  setMarks(list = []) {
    const marks = new Map(list.map((mark) => [mark.position, mark]));
    if (JSON.stringify([...marks]) === JSON.stringify([...this.marks])) return;
    for (const i of this.marks.keys()) this.unflag(this.blocks.nodes[i]);
    this.marks = marks;
    for (const i of marks.keys()) if (this.blocks.nodes[i]) this.flag(this.blocks.nodes[i], i);
    this.moved();
  }

  flag(token, i) {
    const { kind, text } = this.marks.get(i);
    token.classList.add("mark", kind === "culprit" || kind === "guess" ? kind : "note");
    if (text) token.dataset.flag = text;
  }

  unflag(token) {
    token?.classList.remove("mark", "culprit", "guess", "note", "left");
    if (token) delete token.dataset.flag;
  }

  showHits({ first, last }) {
    this.hits.fill(0);
    first.forEach((from, k) => this.hits.fill(1, from, last[k] + 1));
    this.blocks.nodes.forEach((token, i) => token?.classList.toggle("hit", this.hits[i] === 1));
    this.map.soon(true);
  }

  // Tokens came, went or have another place.
  moved() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.map.soon(true), 100);
    for (const i of this.marks.keys()) {
      const token = this.blocks?.nodes[i];
      if (token) hangFlag(token, this.box, this.marks.get(i).text);
    }
  }

  scrolled() {
    this.hover(null);
    this.blocks.near();
    this.map.soon();
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.blocks.remember();
      this.remember();
    }, 150);
  }

  remember() {
    memories.delete(this.name);
    memories.set(this.name, { top: this.blocks.kept, head: this.selection?.[1], ...this.tools.state() });
    if (memories.size > MEMORIES) memories.delete(memories.keys().next().value);
  }

  point(position) {
    this.blocks.nodes[this.pointed]?.classList.remove("pointed");
    this.pointed = position;
    this.blocks.nodes[position]?.classList.add("pointed");
  }

  hover(token) {
    const i = token ? Number(token.dataset.i) : null;
    if (i === this.hovered) return;
    this.hovered = i;
    this.say("tokenscope:hover", { channel: this.data?.channel, position: i });
    this.tip.hidden = i === null;
    if (i === null) return;
    this.tip.replaceChildren(...tipOf(this, i));
    this.tip.classList.toggle("much", this.long[this.columns.word[i]]);
    placeTip(this.tip, token);
  }
}
