// Where everything of a flow graph is: question at the left, answer at the right, what is between
// them in columns of text order. flowsvg.py lays out the same for files; a test compares the two.
const ROW = 20, CELL = 8.4, DOT = 8, HEAD = 30, FOOT = 6; // px; a cell is a monospace character
const LEFT = 58, RIGHT = 10; // beside the first and the last column: arcs bend into it
const NARROWEST = 64, WIDEST = 230; // px between two columns
const FEWEST_ROWS = 14;
const LEAST = 62; // px of a column: its heading has room
const PARTS = ["question", "reasoning", "answer"];
const FAINTEST = 0.07; // of the colour map: an edge that is drawn can be seen
const WHOLE_RUN = 40, PICKED = 20; // tokens of a run that are shown when it is opened

// The tokens and folded runs to draw, in text order. `runs` are pairs of positions [start, end).
function itemsOf({ columns, labels, offset }, runs) {
  const items = [];
  let next = 0;
  for (let i = 0; i < columns.length; ) {
    const run = next < runs.length && runs[next][0] === i + offset ? runs[next] : null;
    const end = run ? run[1] - offset : i + 1;
    let inflow = 0, throughput = 0;
    for (let k = i; k < end; k += 1) {
      inflow += columns.inflow[k];
      throughput += columns.throughput[k];
    }
    const label = run ? `… ${number(end - i, true)} tokens` : labels[i];
    const cells = run ? label.length : columns.cells[i];
    items.push({ first: i + offset, last: end - 1 + offset, part: columns.part[i], folded: Boolean(run), label, cells, inflow, throughput });
    if (run) next += 1;
    i = end;
  }
  return items;
}

// What is left folded when a run is opened: a long one shows its tokens of most throughput.
function opened([start, end], { columns, offset }) {
  if (end - start <= WHOLE_RUN) return [];
  const order = Array.from({ length: end - start }, (_, k) => start + k);
  order.sort((a, b) => columns.throughput[b - offset] - columns.throughput[a - offset] || a - b);
  const kept = new Set(order.slice(0, PICKED));
  const runs = [];
  for (let i = start, from = start; i <= end; i += 1) {
    if (i < end && !kept.has(i)) continue;
    if (i - from > 1) runs.push([from, i]);
    from = i + 1;
  }
  return runs;
}

// Items in columns: as few rows as leave room for the edges between the columns.
function columnsFor(items, width) {
  const parts = PARTS.map((_, p) => items.filter((item) => item.part === p));
  const longest = Math.max(...parts.map((part) => part.length));
  for (let rows = Math.min(FEWEST_ROWS, longest); ; rows += 1) {
    const columns = [];
    for (const part of parts) {
      const count = Math.ceil(part.length / rows);
      const each = Math.ceil(part.length / count);
      for (let c = 0; c < count; c += 1) columns.push(part.slice(c * each, (c + 1) * each));
    }
    const wide = columns.map((column) => Math.max(LEAST, 2 * DOT + 2 + CELL * Math.max(...column.map((item) => item.cells))));
    const free = width - LEFT - RIGHT - wide.reduce((a, b) => a + b, 0);
    const gap = columns.length > 1 ? free / (columns.length - 1) : WIDEST;
    if (gap >= NARROWEST || rows >= longest) {
      return { columns, wide, gap: Math.max(Math.min(gap, WIDEST), 24) };
    }
  }
}

// Places of all items: `x`, `y` of the dot, its radius `r`, and `right`, where its label ends.
function layoutOf(items, width) {
  const { columns, wide, gap } = columnsFor(items, width);
  const rows = Math.max(...columns.map((column) => column.length));
  const most = Math.max(...items.map((item) => item.throughput), 1e-30);
  const heads = [];
  let left = LEFT;
  columns.forEach((column, c) => {
    const part = column[0].part;
    const top = HEAD + (part === 2 ? ((rows - column.length) * ROW) / 2 : 0);
    column.forEach((item, row) => {
      item.column = c;
      item.row = row;
      item.x = left + DOT;
      item.y = top + row * ROW + ROW / 2;
      item.r = Math.max(1.2, DOT * Math.sqrt(item.throughput / most));
      item.right = left + 2 * DOT + 2 + CELL * item.cells;
    });
    const head = heads.at(-1);
    if (head?.part === part) head.right = left + wide[c];
    else heads.push({ part, left, right: left + wide[c] });
    left += wide[c] + gap;
  });
  const right = left - gap + RIGHT;
  return { items, heads, gap, most, width: Math.max(right, 200), height: HEAD + rows * ROW + FOOT, rows };
}

// The first `count` edges as ribbons between items; those that touch a folded run are summed.
// Lightest first, so that the heaviest is drawn on top.
function ribbonsOf(edges, layout, offset, count) {
  const at = new Int32Array(layout.items.at(-1).last - offset + 1);
  layout.items.forEach((item, n) => at.fill(n, item.first - offset, item.last - offset + 1));
  const found = new Map(), size = layout.items.length;
  for (let e = 0; e < count; e += 1) {
    const source = at[edges.source[e] - offset], target = at[edges.target[e] - offset];
    if (source === target) continue;
    const ribbon = found.get(source * size + target);
    if (!ribbon) found.set(source * size + target, { source, target, flow: edges.flow[e], members: [e] });
    else {
      ribbon.flow += edges.flow[e];
      ribbon.members.push(e);
    }
  }
  const ribbons = [...found.values()].sort((a, b) => a.flow - b.flow || b.source - a.source || b.target - a.target);
  for (const ribbon of ribbons) ribbon.curve = curveOf(layout.items[ribbon.source], layout.items[ribbon.target], layout);
  return ribbons;
}

// Eight numbers of a cubic curve: rightwards between columns, an arc at the left within one.
function curveOf(a, b, { gap, rows }) {
  if (a.column === b.column) {
    const room = Math.min(gap, LEFT) - 8;
    const bend = (4 / 3) * (8 + (room - 8) * ((b.row - a.row) / rows) ** 0.6);
    return [a.x - a.r - 1, a.y, a.x - a.r - bend, a.y, b.x - b.r - bend, b.y, b.x - b.r - 1, b.y];
  }
  const from = a.right + 2, to = b.x - b.r - 2;
  const bend = Math.max(0.45 * (to - from), 20);
  return [from, a.y, from + bend, a.y, to - bend, b.y, to, b.y];
}

const strokeOf = (flow, most) => Math.max(0.7, 9 * Math.min(flow / most, 1));
const shadeOf = (flow, most, ramp) => ramp[Math.round((FAINTEST + (1 - FAINTEST) * Math.min(flow / most, 1)) * (ramp.length - 1))];

// Edges come in the order in which a growing share takes them in: how many does it take?
function taken(needed, share) {
  let low = 0, high = needed.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (needed[middle] < share) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Squared distance of a point from a curve, by a few points on it.
function awayFrom([x1, y1, x2, y2, x3, y3, x4, y4], x, y, reach) {
  if (x < Math.min(x1, x2, x3, x4) - reach || x > Math.max(x1, x2, x3, x4) + reach) return Infinity;
  if (y < Math.min(y1, y4) - reach || y > Math.max(y1, y4) + reach) return Infinity;
  let least = Infinity;
  let [px, py] = [x1, y1];
  for (let k = 1; k <= 24; k += 1) {
    const t = k / 24, u = 1 - t;
    const qx = u * u * u * x1 + 3 * u * u * t * x2 + 3 * u * t * t * x3 + t * t * t * x4;
    const qy = u * u * u * y1 + 3 * u * u * t * y2 + 3 * u * t * t * y3 + t * t * t * y4;
    const [dx, dy] = [qx - px, qy - py];
    const along = Math.min(Math.max(((x - px) * dx + (y - py) * dy) / (dx * dx + dy * dy || 1), 0), 1);
    least = Math.min(least, (x - px - along * dx) ** 2 + (y - py - along * dy) ** 2);
    [px, py] = [qx, qy];
  }
  return least;
}
