// The selected token: what it was, its numbers, and what else the model might have said.
export default function details({ data, parentElement }) {
  const root = parentElement.querySelector(".ts-details");
  root.dataset.theme = themeOf(root);
  const parts = [];
  const heading = fill(element("div", "what"), data.piece);
  parts.push(heading);
  if (data.context) parts.push(element("div", "context", data.context));
  parts.push(facts(data.facts));
  if (data.alternatives.length) {
    parts.push(element("h3", "", data.title));
    const list = element("ol", "others");
    list.setAttribute("aria-label", data.title);
    for (const { piece, share, chance, said, rank } of data.alternatives) {
      const row = element("li", said ? "said" : "");
      const bar = element("span", "bar");
      const fillBar = element("span", "part");
      fillBar.style.width = `${Math.max(share * 100, share > 0 ? 1.2 : 0)}%`;
      bar.append(fillBar);
      row.append(element("span", "rank", String(rank)), fill(element("span", "token"), piece), bar, element("span", "chance", chance));
      row.title = said ? "the token that was said" : "";
      list.append(row);
    }
    parts.push(list);
  }
  if (data.note) parts.push(element("p", "note", data.note));
  if (data.more.length) parts.push(facts(data.more, "rest"));
  root.replaceChildren(...parts);
}

function facts(rows, className = "") {
  const list = element("dl", `facts ${className}`);
  for (const { label, value, unit, help } of rows) {
    const name = element("dt", "", label);
    if (help) name.title = help;
    list.append(name, element("dd", "", unit ? `${value} ${unit}` : value));
  }
  return list;
}
