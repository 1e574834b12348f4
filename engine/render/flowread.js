// The words beside a flow graph: its legend, what hovering tells, what a selected token draws from
// and feeds, and what a selected edge carries.
const LISTED = 5;

function flowLegend({ mostFlow, layout, data, ramp, colors }) {
  const key = svg("svg", { width: 760, height: KEY, class: "key", role: "img", "aria-label": `flow of an edge from 0 to ${number(mostFlow)}, throughput of a token up to ${number(layout.most)}; all that the question sends is 1` });
  key.append(keyShape(0, mostFlow, layout.most, colors, ramp));
  const notes = [DIRECTION];
  if (data.outside) notes.push(`${number(data.outside, true)} token${data.outside > 1 ? "s" : ""} outside question and answer not drawn`);
  if (layout.items.some((item) => item.folded)) notes.push("squares: folded tokens, their flow summed; click to open");
  return [key, element("div", "notes", notes.join(" · "))];
}

const nameOf = (item) => bare(item.label);

function factsOf(item, { columns, offset }) {
  const facts = [["throughput", number(item.throughput)]];
  if (!item.folded) facts.push(["inflow", number(item.inflow)]);
  for (const rank of item.folded ? [] : ["hub", "checkpoint"]) {
    const value = columns[rank]?.[item.first - offset] ?? NaN;
    if (!Number.isNaN(value)) facts.push([rank, `no. ${value}`]);
  }
  return facts;
}

function whereOf({ first, last, folded, part }) {
  const at = folded ? `positions ${number(first, true)} to ${number(last, true)}, summed` : `position ${number(first, true)}`;
  return `${PARTS[part]}, ${at}`;
}

// Children of the tooltip of an item.
function itemTip(item, graph) {
  const what = element("div", "what");
  if (item.folded) what.textContent = item.label;
  else fill(what, graph.columns.piece(item.first - graph.offset));
  return [what, element("div", "where", whereOf(item)), listOf(factsOf(item, graph))];
}

function ribbonTip(ribbon, items, edges) {
  const what = element("div", "what");
  fill(what, items[ribbon.source].label);
  what.append(" → ");
  const end = element("span");
  what.append(fill(end, items[ribbon.target].label));
  const many = ribbon.members.length > 1;
  const where = many ? `${number(ribbon.members.length, true)} edges of folded tokens, summed` : "edge";
  const facts = [["flow", number(ribbon.flow)]];
  if (!many) facts.push(["attention", number(edges.weight[ribbon.members[0]])]);
  return [what, element("div", "where", where), listOf(facts)];
}

function listOf(facts) {
  const list = element("dl");
  for (const [title, value] of facts) list.append(element("dt", "", title), element("dd", "", value));
  return list;
}

// What the selected item draws from and feeds among the drawn edges, the heaviest first.
function itemReadout(n, ribbons, layout, act) {
  const item = layout.items[n];
  const facts = factsOf(item, act.graph).map((fact) => fact.join(" ")).join(" · ");
  const said = element("div", "said");
  said.append(fill(element("span", "token"), item.label), element("span", "quiet", `${whereOf(item)} · ${facts}`));
  if (!ribbons.some(({ source, target }) => source === n || target === n)) {
    return [said, element("div", "quiet", "None of its edges is drawn: keep a larger share of the flow to see them.")];
  }
  const sides = element("div", "sides");
  for (const [title, mine, other] of [["draws from", "target", "source"], ["feeds", "source", "target"]]) {
    const found = ribbons.filter((ribbon) => ribbon[mine] === n).reverse();
    const side = element("div", "side");
    const sum = found.reduce((total, ribbon) => total + ribbon.flow, 0);
    side.append(element("div", "quiet", found.length ? `${title} (${found.length} drawn edge${found.length > 1 ? "s" : ""}, ${number(sum)} in all)` : `${title}: no drawn edge`));
    for (const ribbon of found.slice(0, LISTED)) {
      side.append(entry(layout.items[ribbon[other]], ribbon.flow, () => act.ribbon(ribbon), "this edge"));
    }
    if (found.length > LISTED) side.append(element("span", "quiet", `and ${found.length - LISTED} lighter`));
    sides.append(side);
  }
  return [said, sides];
}

// A selected edge; of a folded run its heaviest edges, each to choose.
function ribbonReadout(ribbon, layout, edges, act) {
  const [a, b] = [layout.items[ribbon.source], layout.items[ribbon.target]];
  const said = element("div", "said");
  said.append(fill(element("span", "token"), a.label), element("span", "", "→"), fill(element("span", "token"), b.label));
  const single = ribbon.members.length === 1;
  const e = ribbon.members[0];
  const words = single
    ? `edge from position ${number(edges.source[e], true)} to ${number(edges.target[e], true)} · flow ${number(ribbon.flow)} · attention ${number(edges.weight[e])}`
    : `${number(ribbon.members.length, true)} edges, flow ${number(ribbon.flow)} in all; choose one`;
  said.append(element("span", "quiet", words));
  if (single) return [said];
  const side = element("div", "side");
  const heaviest = [...ribbon.members].sort((p, q) => edges.flow[q] - edges.flow[p]).slice(0, LISTED);
  for (const member of heaviest) {
    const button = entry({ label: act.label(edges.source[member]) }, edges.flow[member], () => act.edge(member), "this edge");
    button.firstChild.after(element("span", "", "→"), fill(element("span", "token"), act.label(edges.target[member])));
    side.append(button);
  }
  return [said, side];
}

function entry({ label }, flow, act, what) {
  const button = element("button", "entry");
  button.type = "button";
  button.append(fill(element("span", "token"), label), element("span", "value", number(flow)));
  button.setAttribute("aria-label", `${bare(label)}, flow ${number(flow)}: choose ${what}`);
  button.addEventListener("click", act);
  return button;
}
