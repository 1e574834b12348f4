// What a person does with mouse, keys and clipboard in a strip.
const KEYS_REST = 120; // ms: keys repeat fast
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

class Hands {
  constructor(strip) {
    this.strip = strip;
    this.from = null; // where the mouse button was pressed
    const on = (name, act) => strip.box.addEventListener(name, act.bind(this), strip.while);
    on("mousedown", this.press);
    on("click", this.click);
    on("mouseover", this.over);
    on("mouseleave", () => strip.hover(null));
    on("keydown", this.key);
    on("copy", this.copy);
  }

  press(event) {
    const token = event.target.closest(".t");
    if (event.shiftKey) event.preventDefault();
    this.from = token && event.button === 0 && !event.shiftKey ? Number(token.dataset.i) : null;
  }

  click(event) {
    const { strip } = this;
    const token = event.target.closest(".t");
    if (!token) return;
    const i = Number(token.dataset.i);
    strip.choose(event.shiftKey && strip.selection ? strip.selection[0] : i, i, 0);
  }

  // With the button held, a stretch is drawn out.
  over(event) {
    const { strip } = this;
    const token = event.target.closest?.(".t");
    strip.hover(token);
    if (!(event.buttons & 1)) this.from = null;
    if (!token || this.from === null) return;
    const i = Number(token.dataset.i);
    const [from, to] = strip.selection ?? [];
    if (i !== to || from !== this.from) strip.choose(this.from, i, KEYS_REST);
  }

  // Tokens cannot be marked with the mouse, so copying takes the selected ones, as text again. At
  // the ends, a part of a character can only be written as its bytes.
  copy(event) {
    const { strip } = this;
    if (!strip.selection) return;
    let [from, to] = [Math.min(...strip.selection), Math.max(...strip.selection)];
    const { start, stop } = strip.columns;
    let before = "", after = "";
    for (; from <= to && from > 0 && stop[from - 1] > start[from]; from += 1) before += bare(strip.piece(from));
    for (; to >= from && to < strip.length - 1 && stop[to] > start[to + 1]; to -= 1) after = bare(strip.piece(to)) + after;
    const whole = from <= to ? strip.data.written.slice(start[from], stop[to]) : "";
    event.clipboardData.setData("text/plain", before + whole + after);
    event.preventDefault();
  }

  key(event) {
    const { strip } = this;
    if (!strip.length) return;
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "a") strip.choose(0, strip.length - 1, KEYS_REST);
    else if (command || event.altKey) return;
    else if (event.key === "Escape") {
      if (!strip.selection || strip.selection[0] === strip.selection[1]) return;
      strip.choose(strip.selection[1], strip.selection[1], KEYS_REST, { follow: true });
    } else if (event.key === "n") strip.tools.step(1);
    else if (event.key === "p") strip.tools.step(-1);
    else if (event.key === "/") strip.tools.focus("find");
    else if (event.key === "?") strip.tools.showKeys();
    else if (!this.move(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(key, extend) {
    const { strip } = this;
    const last = strip.selection?.[1] ?? 0;
    let next = null;
    if (key in STEPS) next = last + STEPS[key];
    else if (key === "ArrowUp" || key === "ArrowDown") next = this.vertical(last, key === "ArrowUp" ? -1 : 1);
    else if (key === "Home") next = 0;
    else if (key === "End") next = strip.length - 1;
    if (next === null) return false;
    next = Math.min(Math.max(next, 0), strip.length - 1);
    strip.choose(extend ? strip.selection?.[0] ?? next : next, next, KEYS_REST, { follow: true });
    return true;
  }

  // The token above or below: the nearest by its middle on the next row of text.
  vertical(from, step) {
    const { strip } = this;
    const rect = (i) => strip.blocks.nodes[i].getBoundingClientRect();
    strip.blocks.ensure(from);
    const here = rect(from);
    const away = (i) => Math.abs(rect(i).left + rect(i).right - here.left - here.right);
    let row = null, best = from;
    for (let i = from + step; i >= 0 && i < strip.length && strip.blocks.nodes[i]; i += step) {
      const { bottom } = rect(i); // tops differ in one row where a token is flagged
      if (Math.abs(bottom - here.bottom) < 6) continue;
      if (row === null) { row = bottom; best = i; }
      if (Math.abs(bottom - row) >= 6) break;
      if (away(i) < away(best)) best = i;
    }
    return best;
  }
}
