// What else could be said here: a click or the arrow keys choose what to force.
export default function choices({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".ts-choices");
  root.dataset.theme = themeOf(root);
  const list = element("div", data.two ? "list two" : "list");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "What to say instead: arrow keys choose");
  list.tabIndex = 0;
  const rows = data.rows.map((row) => ({ ...row, node: line(row, data.two) }));
  // Nothing forced is a choice as well.
  const again = element("div", "row again", "nothing: let it draw again from here");
  again.setAttribute("role", "option");
  rows.push({ id: -1, node: again });
  list.append(...rows.map((r) => r.node));
  const mark = (id) => {
    for (const { id: own, node } of rows) node.setAttribute("aria-selected", String(own === id));
  };
  let chosen = data.chosen;
  mark(chosen);
  const choose = (id) => {
    chosen = id;
    mark(id);
    const { text, position } = data;
    setStateValue("choice", { text, position, id, stamp: Math.max(Date.now(), (root.stamp ?? 0) + 1) });
    root.stamp = Date.now();
  };
  for (const { id, node } of rows) node.addEventListener("click", () => choose(id));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = rows.findIndex((r) => r.id === chosen);
    const next = rows[Math.min(Math.max(at + step, 0), rows.length - 1)];
    if (next.id === chosen) return;
    choose(next.id);
    next.node.scrollIntoView({ block: "nearest" });
  });
  const focused = root.contains(root.getRootNode().activeElement);
  const top = root.querySelector(".list")?.scrollTop ?? 0;
  const parts = [fill(element("div", "what"), data.piece), element("div", "where", data.where)];
  if (data.rows.length) {
    const head = element("div", data.two ? "head two" : "head");
    head.append(element("span", "", "say instead"), element("span", "", data.two ? "p" : "probability"));
    if (data.two) head.append(element("span", "", "after"));
    parts.push(head, list);
  } else parts.push(list);
  if (data.note) parts.push(element("p", "note", data.note));
  root.replaceChildren(...parts);
  list.scrollTop = top;
  if (focused) list.focus({ preventScroll: true });
}

function line(row, two) {
  const node = element("div", "row");
  node.setAttribute("role", "option");
  node.classList.toggle("said", row.said);
  node.classList.toggle("cut", row.cut);
  node.title = row.said ? "the token that was said" : "";
  node.append(element("span", "rank", String(row.rank)), fill(element("span", "token"), row.piece));
  const bars = element("span", "bars");
  bars.append(bar(row.share));
  if (two) bars.append(bar(row.afterShare ?? 0));
  node.append(bars, element("span", "p", row.before));
  if (two) node.append(element("span", "p", row.after));
  return node;
}

function bar(share) {
  const box = element("span", "bar"), part = element("span", "part");
  part.style.width = `${share > 0 ? Math.max(share * 100, 1.2) : 0}%`;
  box.append(part);
  return box;
}
