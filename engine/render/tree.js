// The tree of branches: a row for each, a chip for each continuation. A click shows one, a click
// with Shift puts it beside the one that is shown; arrow keys walk.
export default function tree({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".ts-tree");
  root.dataset.theme = themeOf(root);
  const report = (branch, sample, beside) => {
    root.stamp = Math.max(Date.now(), (root.stamp ?? 0) + 1);
    setStateValue("place", { branch, sample, beside, stamp: root.stamp });
  };
  const is = (place, branch, sample) => place?.[0] === branch && place?.[1] === sample;
  const active = root.getRootNode().activeElement;
  const focused = root.contains(active) ? active.dataset.place : null;
  const grid = data.rows.map((row) => {
    const node = element("div", "row");
    node.style.setProperty("--depth", row.depth);
    const label = element("div", "label");
    if (row.forced) {
      label.append(fill(element("code", "forced"), row.forced));
      if (row.said) label.append(element("span", "quiet", "instead of"), fill(element("code", "said"), row.said));
    } else if (row.depth) label.append(element("span", "", "drawn again"));
    label.append(element("span", row.depth ? "quiet" : "", row.label));
    const chips = element("div", "chips");
    chips.append(...row.chips.map((chip) => {
      const button = element("button", `chip ${chip.mark}`);
      button.append(element("span", "answer", chip.answer));
      const sign = { right: "✓", wrong: "✗", none: "?", unchecked: "" }[chip.mark];
      if (sign) button.append(element("span", "sign", sign));
      button.title = `${chip.title}. Shift-click: put it beside the one that is shown`;
      button.setAttribute("aria-label", chip.title);
      button.setAttribute("aria-pressed", String(is(data.shown, row.branch, chip.sample)));
      button.classList.toggle("beside", is(data.compared, row.branch, chip.sample));
      button.dataset.place = `${row.branch} ${chip.sample}`;
      button.addEventListener("click", (event) => report(row.branch, chip.sample, event.shiftKey));
      return button;
    }));
    node.append(label, element("div", "facts", row.facts.join(" · ")), chips);
    return { node, buttons: [...chips.children] };
  });
  root.replaceChildren(...grid.map((row) => row.node));
  root.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const here = root.getRootNode().activeElement;
    const at = grid.findIndex((row) => row.buttons.includes(here));
    if (!step || at < 0) return;
    event.preventDefault();
    const row = grid[Math.min(Math.max(at + step[0], 0), grid.length - 1)].buttons;
    const k = step[0] ? 0 : grid[at].buttons.indexOf(here) + step[1];
    row[Math.min(Math.max(k, 0), row.length - 1)]?.focus();
  };
  if (focused) root.querySelector(`[data-place="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}
