// Two traces above each other: what differs is ringed, what has nothing opposite leaves a gap.
export default function aligned({ data, parentElement }) {
  const root = parentElement.querySelector(".ts-aligned");
  root.dataset.theme = themeOf(root);
  const signature = JSON.stringify(data);
  if (root.signature === signature) return;
  root.signature = signature;
  const body = element("div", "body");
  for (const pair of data.pairs) {
    if (pair.kind === "skipped") {
      body.append(element("span", "skipped", pair.text));
      continue;
    }
    const node = element("span", `pair ${pair.kind}`);
    node.append(side("a", pair.a), side("b", pair.b));
    body.append(node);
    if (pair.ends) body.append(element("span", "break"));
  }
  const key = element("div", "key");
  data.titles.forEach((title, k) => key.append(element("div", "ab"[k], title)));
  root.replaceChildren(key, body);
}

function side(name, pieces) {
  const node = element("span", `side ${name}`);
  for (const piece of pieces) node.append(fill(element("span", "t"), piece));
  return node;
}
