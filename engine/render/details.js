// The selected token: what it was, its numbers, and what else the model might have said. A click on
// an alternative offers to force it, where a page takes that up (data.force).
const panels = new WeakMap();

export default function details({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".ts-details");
  root.dataset.theme = themeOf(root);
  const same = JSON.stringify(data);
  if (panels.get(root) === same) return; // an opened offer stays open
  panels.set(root, same);
  const parts = [];
  const heading = fill(element("div", "what"), data.piece);
  parts.push(heading);
  if (data.context) parts.push(element("div", "context", data.context));
  parts.push(facts(data.facts));
  if (data.alternatives.length) {
    parts.push(element("h3", "", data.title));
    const list = element("ol", "others");
    list.setAttribute("aria-label", data.title);
    for (const { piece, share, chance, said, rank, id } of data.alternatives) {
      const row = element("li", said ? "said" : "");
      const bar = element("span", "bar");
      const fillBar = element("span", "part");
      fillBar.style.width = `${Math.max(share * 100, share > 0 ? 1.2 : 0)}%`;
      bar.append(fillBar);
      row.append(element("span", "rank", String(rank)), fill(element("span", "token"), piece), bar, element("span", "chance", chance));
      row.title = said ? "the token that was said" : "";
      const force = { position: data.position, id };
      if (data.force && !said && id !== null) offer(list, row, piece, () => setTriggerValue("force", force));
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

// Makes a row of the list a button that shows the one thing to do with it.
function offer(list, row, piece, act) {
  row.classList.add("open-to");
  row.tabIndex = 0;
  row.setAttribute("role", "button");
  row.setAttribute("aria-expanded", "false");
  row.title = "Force this instead";
  const open = () => {
    const was = list.querySelector(".offer");
    const again = was?.previousElementSibling === row;
    was?.previousElementSibling.setAttribute("aria-expanded", "false");
    was?.remove();
    if (again) return;
    row.setAttribute("aria-expanded", "true");
    const place = element("li", "offer");
    const button = element("button", "", "Force ");
    button.type = "button";
    button.append(fill(element("span", "token"), piece), " instead");
    button.addEventListener("click", act);
    place.append(button);
    row.after(place);
  };
  row.addEventListener("click", open);
  row.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    open();
  });
}
