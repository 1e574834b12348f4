// Find text, jump to tokens that meet a condition, and the keys: one quiet row below the tokens.
const KEYS = [
  ["← → ↑ ↓", "move, with Shift extend"],
  ["Home, End", "first, last token"],
  ["Esc", "from a stretch back to one token"],
  ["Ctrl C", "copy the selected text"],
  ["/", "find text"],
  ["n, p", "next, previous match"],
  ["?", "show or hide these keys"],
];
const NOTHING = { first: [], last: [] };

class Tools {
  constructor(strip) {
    this.strip = strip;
    this.root = strip.root.querySelector(".tools");
    const one = (name) => this.root.querySelector(`.${name}`);
    this.inputs = { find: one("find"), jump: one("jump") };
    [this.count, this.refusal, this.keys, this.help] = [one("count"), one("refusal"), one("keys"), one("help")];
    this.found = one("found");
    this.active = "find";
    this.matches = NOTHING;
    this.keys.replaceChildren(...KEYS.flatMap(([what, say]) => [element("dt", "", what), element("dd", "", say)]));
    const on = (node, name, act) => node.addEventListener(name, act, strip.while);
    for (const [kind, input] of Object.entries(this.inputs)) {
      on(input, "input", () => this.search(kind));
      on(input, "focus", () => input.value.trim() && this.active !== kind && this.search(kind));
      on(input, "keydown", (event) => this.key(event, kind));
    }
    on(one("previous"), "click", () => this.step(-1));
    on(one("next"), "click", () => this.step(1));
    on(this.help, "click", () => this.showKeys());
    // The page has keys of its own (R runs it again): what is typed here is not for it.
    for (const name of ["keydown", "keyup", "keypress"]) on(this.root, name, (event) => event.stopPropagation());
  }

  // New numbers or a new text; what was typed stays and is looked for again.
  update(data, kept) {
    this.root.hidden = data.tools === false;
    this.names = namesOf(this.strip);
    this.inputs.jump.hidden = !data.signals.length;
    this.inputs.jump.placeholder = `jump to, e.g. ${exampleOf(data.signals)}`;
    if (kept) {
      this.inputs.find.value = kept.find;
      this.inputs.jump.value = kept.jump;
      this.active = kept.active;
    }
    this.search(this.active);
  }

  state() {
    return { find: this.inputs.find.value, jump: this.inputs.jump.value, active: this.active };
  }

  search(kind) {
    this.active = kind;
    const text = this.inputs[kind].value;
    let refusal = "";
    this.matches = NOTHING;
    try {
      if (kind === "find" && text) this.matches = textMatches(this.strip, text);
      else if (kind === "jump" && text.trim()) this.matches = conditionMatches(condition(text, this.names), this.strip.length);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refusal = error.message;
    }
    this.inputs.jump.toggleAttribute("aria-invalid", Boolean(refusal));
    this.refusal.textContent = refusal;
    this.refusal.hidden = !refusal;
    for (const [name, input] of Object.entries(this.inputs)) input.classList.toggle("active", name === kind);
    this.strip.showHits(this.matches);
    this.say();
    this.strip.remember();
  }

  say() {
    const count = this.matches.first.length;
    const typed = this.inputs[this.active].value.trim() && this.refusal.hidden;
    const at = this.current();
    this.found.hidden = !typed;
    this.found.classList.toggle("none", !count);
    this.count.textContent = !count ? "no match" : at < 0 ? `${number(count, true)} found` : `${number(at + 1, true)} of ${number(count, true)}`;
  }

  // The match that is selected, −1 when none is.
  current() {
    const { selection } = this.strip;
    if (!selection) return -1;
    const [from, to] = [Math.min(...selection), Math.max(...selection)];
    const at = lowest(this.matches.first.length, (k) => this.matches.first[k] >= from);
    return this.matches.first[at] === from && this.matches.last[at] === to ? at : -1;
  }

  // On from the selection to the next match, around the end to the first one.
  step(direction) {
    const { first, last } = this.matches;
    if (!first.length) return;
    let at = this.current();
    if (at >= 0) at += direction;
    else {
      const here = Math.min(...(this.strip.selection ?? [-1]));
      at = lowest(first.length, (k) => first[k] >= here) - (direction < 0 ? 1 : 0);
    }
    at = (at + first.length) % first.length;
    this.strip.choose(first[at], last[at], KEYS_REST, { follow: true });
  }

  key(event, kind) {
    if (event.key === "Enter") {
      if (this.active !== kind) this.search(kind);
      this.step(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") this.strip.box.focus({ preventScroll: true });
    else return;
    event.preventDefault();
  }

  focus(kind) {
    if (this.root.hidden) return;
    this.inputs[kind].focus();
    this.inputs[kind].select();
  }

  showKeys() {
    if (this.root.hidden) return;
    this.keys.hidden = !this.keys.hidden;
    this.help.setAttribute("aria-expanded", String(!this.keys.hidden));
  }
}

// The first k below `count` for which `holds`, else `count`; `holds` stays true once it is.
function lowest(count, holds) {
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Every place where the text as written says `query`, whatever tokens it is cut into.
function textMatches(strip, query) {
  const { start, stop } = strip.columns;
  const wanted = query.replaceAll("⏎", "\n").replaceAll("⇥", "\t").replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  const matches = { first: [], last: [] };
  for (const { index, 0: text } of strip.data.written.matchAll(new RegExp(wanted, "giu"))) {
    matches.first.push(lowest(strip.length, (i) => stop[i] > index));
    matches.last.push(lowest(strip.length, (i) => start[i] >= index + text.length) - 1);
  }
  return matches;
}

function conditionMatches(meets, count) {
  const first = [];
  for (let i = 0; i < count; i += 1) if (meets(i) === true) first.push(i);
  return { first, last: first };
}

// What a condition may speak of: each signal by its column's name, the place, what a token is.
function namesOf(strip) {
  const { data, columns } = strip;
  const names = new Map([["position", (i) => i]]);
  for (const { name } of data.signals) names.set(name.toLowerCase(), (i) => columns.signal(name)[i]);
  if (!names.has("logprob") && names.has("surprisal")) names.set("logprob", (i) => -columns.signal("surprisal")[i]);
  for (const [name, flag] of [["prompt", PROMPT], ["answer", ANSWER], ["special", SPECIAL]]) {
    if (!names.has(name)) names.set(name, { truth: (i) => (columns.flags[i] & flag) > 0 });
  }
  return names;
}

function exampleOf(signals) {
  const names = signals.map((s) => s.name);
  if (names.includes("rank") && names.includes("entropy")) return EXAMPLE;
  return names.includes("surprisal") || !names.length ? "surprisal > 3" : `${names[0]} > 1`;
}
