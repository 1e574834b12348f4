// A strip's data: columns, colour levels, widths; shared with the group view.
const PROMPT = 1, ANSWER = 2, SPECIAL = 4;
const PLAIN = -1, MISSING = -2; // levels of tokens without colour
const LONG = 60; // characters; longer tokens are clipped, hovering shows all of them

// Which colour a value gets: a place on the ramp, or the first bucket whose edge it does not pass.
function level(signal, value, steps) {
  if (signal.map === "buckets") {
    const k = signal.edges.findIndex((edge) => value <= edge);
    return k < 0 ? steps - 1 : k;
  }
  const share = (value - signal.low) / (signal.high - signal.low);
  return Math.round(Math.min(Math.max(share, 0), 1) * (steps - 1));
}

// Characters as wide as two: of East Asian scripts, and emoji.
const wide = (text) => text.length + (text.match(/[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uff60]/g)?.length ?? 0);

// What breaking a text into lines needs to know of each word.
const looksOf = (words) => words.map((markup) => ({
  ends: /\x01[^\x03]*⏎/.test(markup),
  word: markup.startsWith("\x01·"),
  width: Math.min(wide(bare(markup)), LONG),
}));

function tintToken(token, step, { colors, inks, calm: ordinary }) {
  const calm = step < 0 || step === ordinary;
  const style = calm ? "" : `background:${colors[step]};color:${inks[step]}`;
  if (style || token.hasAttribute("style")) token.style.cssText = style;
  token.classList.toggle("missing", step === MISSING);
  token.classList.toggle("calm", calm);
}

// Columns from an Arrow table (app) or from JSON (page, notebook), read when they are needed.
class Columns {
  constructor(table) {
    this.table = table;
    this.read = new Map();
    for (const name of ["word", "flags", "start", "stop"]) this[name] = this.column(name);
  }

  column(name) {
    const vector = this.table.getChild ? this.table.getChild(name) : this.table[name];
    return vector?.toArray ? vector.toArray() : vector;
  }

  // A value per token; NaN where there is none.
  signal(name) {
    if (!this.read.has(name)) {
      const vector = this.table.getChild ? this.table.getChild(name) : this.table[name];
      const values = new Float32Array(this.word.length);
      const get = vector.get ? (i) => vector.get(i) : (i) => vector[i];
      if (vector.nullCount === 0) values.set(vector.toArray());
      else for (let i = 0; i < values.length; i += 1) values[i] = get(i) ?? NaN;
      this.read.set(name, values);
    }
    return this.read.get(name);
  }

  // The likeliest tokens at a position, best first.
  alternatives(i) {
    const found = [];
    for (let k = 1; this.column(`alternative_${k}`); k += 1) {
      const piece = this.column(`alternative_${k}`)[i];
      if (piece >= 0) found.push({ piece, chance: this.signal(`chance_${k}`)[i] });
    }
    return found;
  }
}
