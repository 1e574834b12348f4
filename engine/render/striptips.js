// What is written beside a strip's tokens: the legend of the colours, and what hovering tells.
function legendOf({ signal, colors, inks, columns, levels, prompt, remarks = [] }) {
  const parts = [element("span", "name", signal.title)];
  if (signal.map === "buckets") {
    signal.labels.forEach((label, k) => {
      const sample = element("span", "bucket", label);
      sample.style.background = colors[k];
      sample.style.color = inks[k];
      parts.push(sample);
    });
  } else {
    const ramp = element("span", "ramp");
    ramp.style.background = `linear-gradient(90deg, ${colors.join(",")})`;
    parts.push(element("span", "end", signal.labels[0]), ramp, element("span", "end", signal.labels[1]));
    if (signal.unit) parts.push(element("span", "unit", signal.unit));
  }
  const notes = [];
  const { flags } = columns;
  if (flags.some((f) => f & PROMPT) && flags.some((f) => !(f & PROMPT))) {
    notes.push(prompt ? "prompt dimmed" : "prompt dimmed, not coloured");
  }
  if (flags.some((f) => f & ANSWER)) notes.push("answer underlined");
  if (levels.includes(MISSING)) notes.push("hatched: no value");
  notes.push(...remarks);
  if (notes.length) parts.push(element("span", "notes", notes.join(" · ")));
  return parts;
}

function tipOf(strip, i) {
  const { data, signal, columns } = strip;
  const facts = element("dl");
  const listed = data.hover.filter((s) => s.name !== signal?.name);
  for (const { name, title, unit, whole } of signal ? [signal, ...listed] : listed) {
    const value = number(columns.signal(name)[i], whole);
    facts.append(element("dt", "", title), element("dd", "", unit && value !== "–" ? `${value} ${unit}` : value));
  }
  const parts = [fill(element("div", "what"), strip.piece(i)), element("div", "where", `position ${number(i, true)}`), facts];
  const mark = strip.marks.get(i)?.text;
  if (mark) parts.push(element("div", "head", mark));
  const others = element("dl", "others");
  for (const { piece, chance } of columns.alternatives(i)) {
    others.append(fill(element("dt"), data.words[piece]), element("dd", "", number(chance)));
  }
  if (others.childElementCount) parts.push(element("div", "head", "most likely here"), others);
  return parts;
}

// A flag that would run out of the box hangs to the other side.
function hangFlag(token, box, text) {
  const room = box.getBoundingClientRect().right - token.getBoundingClientRect().left;
  token.classList.toggle("left", room < 16 + 7 * (text ?? "").length);
}

// Below the token, or above where there is no room.
function placeTip(tip, token) {
  tip.hidden = false;
  const at = token.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const below = at.bottom + 8 + size.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - size.height - 8)}px`;
}
