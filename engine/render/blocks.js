// The tokens in blocks of lines. In a long text only blocks near the view have their tokens in the
// DOM; the others are empty boxes of their estimated, later their remembered height. Whatever is
// filled or emptied, the token at the top of the view stays where it is.
const WHOLE = 3000; // texts up to here are never emptied
const BLOCK = 160; // tokens, and then to the end of the line
const LINE = 200, LONGEST_LINE = 400; // tokens; in longer texts, where a line is cut: before a word
const BESIDE = 1, KEPT = 2; // views above and below: filled ahead, and not yet emptied
const MANY = 40; // blocks drawn before the far ones go even while scrolling
const EDGE = 40; // px between a token that is shown and the edge of the view
const GAP = 3; // px a token takes beside its characters

class Blocks {
  // `draw` makes the element of a token; `changed` is called when tokens came, went or moved.
  constructor(box, draw, changed, listening) {
    Object.assign(this, { box, draw, changed, list: [], nodes: [], pinned: null, kept: null });
    this.sizes = new ResizeObserver(() => this.resized());
    this.sizes.observe(box);
    window.addEventListener("beforeprint", () => this.list.forEach((block) => this.fill(block)), listening);
    window.addEventListener("afterprint", () => this.near(), listening);
  }

  close() {
    this.sizes.disconnect();
    clearTimeout(this.later);
  }

  // `text`: count, and of each token whether a line ends after it, whether it starts a word, and
  // its width in characters. Where there are several texts, `begins` tells where each starts and
  // `place` puts the blocks into the box.
  build(text) {
    this.count = text.count;
    this.nodes = new Array(text.count).fill(null);
    this.list = [];
    this.pinned = this.kept = null;
    this.whole = text.count <= WHOLE;
    const [enough, most] = this.whole ? [Infinity, Infinity] : [LINE, LONGEST_LINE];
    let block = null, line = null;
    for (let i = 0; i < text.count; i += 1) {
      const length = line ? i - line.first : 0;
      const begins = text.begins?.(i);
      if (!line || begins || text.ends(i - 1) || length >= most || (length >= enough && text.word(i))) {
        if (!block || begins || i - block.first >= BLOCK) {
          block = { index: this.list.length, first: i, lines: [], filled: false, node: element("div", "block") };
          block.node.setAttribute("role", "presentation");
          this.list.push(block);
        }
        line = { first: i, last: i, chars: 0 };
        block.lines.push(line);
      }
      line.last = block.last = i;
      line.chars += text.width(i);
    }
    if (text.place) text.place(this.list);
    else this.box.replaceChildren(...this.list.map((b) => b.node));
    this.box.scrollTop = 0;
    this.estimate();
    if (this.whole) this.list.forEach((b) => this.fill(b));
    else this.near();
    this.changed();
  }

  estimate() {
    const probe = element("div", "line"), token = element("span", "t", "0".repeat(40));
    probe.append(token);
    this.box.append(probe);
    const cell = (token.getBoundingClientRect().width - GAP) / 40 || 8.7;
    const row = (this.row = probe.getBoundingClientRect().height || 29);
    probe.remove();
    const style = getComputedStyle(this.box);
    this.width = this.box.clientWidth;
    const room = (this.width || 800) - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    for (const block of this.list) {
      let rows = 0;
      for (const line of block.lines) {
        // About half a token stays free at the end of each row.
        const wide = line.chars * cell + (line.last - line.first + 1) * GAP;
        rows += Math.max(1, Math.ceil(wide / (room - 2 * cell)));
      }
      block.height = rows * row;
      if (!block.filled) block.node.style.height = `${block.height}px`;
    }
  }

  fill(block) {
    if (block.filled) return;
    const lines = document.createDocumentFragment();
    for (const { first, last } of block.lines) {
      const line = element("div", "line");
      line.setAttribute("role", "presentation");
      for (let i = first; i <= last; i += 1) line.append((this.nodes[i] = this.draw(i)));
      lines.append(line);
    }
    block.node.append(lines);
    block.node.style.height = "";
    block.filled = true;
  }

  // Leaves a box of `block.height`.
  empty(block) {
    block.node.style.height = `${block.height}px`;
    block.node.replaceChildren();
    this.nodes.fill(null, block.first, block.last + 1);
    block.filled = false;
  }

  // The block at `y` px of the content.
  at(y) {
    return this.first((b) => b.node.offsetTop + b.node.offsetHeight > y);
  }

  holding(i) {
    return this.first((b) => b.last >= i);
  }

  first(holds) {
    let low = 0, high = this.list.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (holds(this.list[middle])) high = middle;
      else low = middle + 1;
    }
    return this.list[low];
  }

  // What is in view is filled at once; what lies beside it one block at a time, and what is far is
  // emptied a few at a time, so that no frame has much to do.
  near() {
    clearTimeout(this.later);
    const { box, list } = this;
    const view = box.clientHeight;
    if (this.whole || !view || !list.length) return;
    const top = box.scrollTop;
    const between = (views) => list.slice(this.at(top - views * view).index, this.at(top + (1 + views) * view).index + 1);
    const middle = this.at(top + view / 2).index;
    const wanted = (b) => !b.filled && !b.folded;
    const away = (block) => Math.abs(block.index - middle);
    const drawn = list.filter((b) => b.filled);
    let missing = between(0).filter(wanted);
    let far = [];
    if (!missing.length || drawn.length > MANY) {
      const stay = new Set(between(KEPT)).add(this.pinned);
      far = drawn.filter((b) => !stay.has(b)).sort((a, b) => away(b) - away(a)).slice(0, 4);
    }
    if (!missing.length) missing = between(BESIDE).filter(wanted).sort((a, b) => away(a) - away(b)).slice(0, 1);
    if (!missing.length && !far.length) return;
    this.still(() => {
      far.forEach((b) => { b.height = b.node.getBoundingClientRect().height; });
      far.forEach((b) => this.empty(b));
      missing.forEach((b) => this.fill(b));
    });
    // Not as a callback of a frame: asked for while scrolling, it would still run in this one.
    this.later = setTimeout(() => this.near(), 10);
  }

  // Runs `change`; what is at the top of the view stays there.
  still(change) {
    const { box } = this;
    const top = box.scrollTop;
    const block = this.at(top);
    const [drawn, start, tall] = [block.filled, this.topOf(block.node), block.node.offsetHeight];
    change();
    const moved = this.topOf(block.node) - start;
    const into = top - start;
    // Inside a box that was only estimated, the same share of it.
    const grown = !drawn && block.filled && tall && into > 0 ? into * (block.node.offsetHeight / tall - 1) : 0;
    this.scroll(top + moved + grown);
    this.changed();
  }

  topOf(node) {
    return node.getBoundingClientRect().top - this.box.getBoundingClientRect().top + this.box.scrollTop;
  }

  scroll(top) {
    if (Math.abs(top - this.box.scrollTop) > 0.5) this.box.scrollTop = top;
  }

  // The element of a token; it and its neighbours' are made when they are not there.
  ensure(i) {
    const { index } = this.holding(i);
    const missing = this.list.slice(Math.max(0, index - 1), index + 2).filter((b) => !b.filled);
    if (missing.length) this.still(() => missing.forEach((b) => this.fill(b)));
    return this.nodes[i];
  }

  // Keeps the tokens of one block in the DOM: a screen reader must find the selected one there.
  pin(i) {
    this.pinned = this.holding(i);
    if (!this.pinned.filled) this.still(() => this.fill(this.pinned));
  }

  reveal(i) {
    const { box } = this;
    if (!box.clientHeight) return;
    for (let tries = 0; tries < 3; tries += 1) {
      const token = this.ensure(i).getBoundingClientRect(), view = box.getBoundingClientRect();
      const edge = Math.min(EDGE, view.height / 4);
      const above = view.top + edge - token.top, below = token.bottom - view.bottom + edge;
      if (above <= 0 && below <= 0) break;
      const far = Math.max(above, below) > view.height / 2;
      const step = far ? (token.top + token.bottom - view.top - view.bottom) / 2 : above > 0 ? -above : below;
      const before = box.scrollTop;
      box.scrollTop += step;
      this.near();
      if (box.scrollTop === before) break;
    }
    this.remember();
  }

  // Which token is at the top of the view, and where: what a new width and a new mount keep.
  remember() {
    if (!this.box.clientHeight || !this.list.length) return;
    const edge = this.box.getBoundingClientRect().top;
    const block = this.at(this.box.scrollTop);
    if (!block.filled) return;
    let low = block.first, high = block.last;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.nodes[middle].getBoundingClientRect().bottom > edge) high = middle;
      else low = middle + 1;
    }
    this.kept = { token: low, offset: this.nodes[low].getBoundingClientRect().top - edge };
  }

  restore(kept) {
    if (!kept || kept.token >= this.count) return;
    const node = this.ensure(kept.token);
    this.scroll(this.topOf(node) - kept.offset);
    this.near();
    this.kept = kept;
  }

  resized() {
    if (!this.list.length) return;
    if (this.box.clientWidth !== this.width) {
      const { kept } = this;
      this.estimate();
      this.restore(kept);
    }
    this.near();
    this.changed();
  }
}
