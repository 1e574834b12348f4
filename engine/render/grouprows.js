// The rollouts of a group view as boxes: what stands above each, and folding to the first line.
class Rollouts {
  constructor(group) {
    this.group = group;
    this.folded = new Set(); // numbers of rollouts
    this.sections = [];
    const find = (name) => group.root.querySelector(name);
    this.prompt = find(".prompt");
    this.all = find(".all");
    this.all.addEventListener("click", () => this.foldAll(!this.every()), group.while);
    this.prompt.addEventListener("click", () => {
      this.prompt.setAttribute("aria-expanded", String(this.prompt.getAttribute("aria-expanded") !== "true"));
    }, group.while);
  }

  // Boxes for all rollouts, with the blocks of their tokens in them.
  place(blocks) {
    const { box, data: { rows }, owner } = this.group;
    this.sections = rows.map((row, k) => this.section(row, k));
    for (const block of blocks) this.sections[owner[block.first]].body.append(block.node);
    const none = rows.length ? [] : [element("div", "nothing", "There are no rollouts to show.")];
    box.replaceChildren(...this.sections.map((s) => s.node), ...none);
    this.looks();
    this.say();
  }

  section(row, k) {
    const node = element("div", "rollout"), facts = element("div", "facts"), body = element("div", "rows");
    node.setAttribute("role", "row");
    node.setAttribute("aria-rowindex", k + 1);
    facts.setAttribute("role", "rowheader");
    body.setAttribute("role", "presentation");
    const button = element("button", "fold");
    button.type = "button";
    button.title = "Fold to the first line, or unfold";
    button.addEventListener("click", () => this.fold(row, !this.folded.has(row.number)));
    facts.append(button);
    node.append(facts, body);
    if (!row.count) body.append(element("div", "nothing", "no tokens"));
    return { node, facts, button, body, said: "" };
  }

  // What stands above each rollout; the button stays the same, so that it keeps the focus.
  say() {
    const { rows, prompt } = this.group.data;
    rows.forEach((row, k) => {
      const section = this.sections[k], said = JSON.stringify(row);
      if (section.said === said) return;
      section.said = said;
      const { facts, button } = section;
      button.textContent = row.label;
      while (button.nextSibling) button.nextSibling.remove();
      facts.append(element("span", `verdict ${row.verdict === "not judged" ? "none" : row.verdict}`, row.verdict));
      for (const [label, value] of [...row.facts, ["tokens", number(row.count, true)]]) {
        const fact = element("span", "fact", `${label} `);
        fact.append(element("b", "", value));
        facts.append(fact);
      }
    });
    this.prompt.parentElement.hidden = !prompt;
    if (this.prompt.textContent !== prompt) this.prompt.textContent = prompt;
  }

  every() {
    const { rows } = this.group.data;
    return rows.length > 0 && rows.every((row) => this.folded.has(row.number));
  }

  fold(row, folded) {
    const { box, byNumber } = this.group;
    if (folded) this.folded.add(row.number);
    else this.folded.delete(row.number);
    this.change();
    // Folded from the head that stays at the top of the view: its rollout is now above.
    const { node } = this.sections[byNumber.get(row.number)];
    if (node.offsetTop < box.scrollTop) box.scrollTop = node.offsetTop;
    this.group.blocks.near();
  }

  foldAll(folded) {
    this.folded = new Set(folded ? this.group.data.rows.map((row) => row.number) : []);
    this.change();
    this.group.blocks.near();
  }

  change() {
    const { group } = this;
    group.hover(null);
    const change = () => {
      this.looks();
      group.blocks.estimate();
    };
    if (group.length) group.blocks.still(change);
    else change();
    group.remember();
  }

  looks() {
    const { group } = this;
    this.sections.forEach(({ node, button }, k) => {
      const folded = this.folded.has(group.data.rows[k].number);
      node.classList.toggle("folded", folded);
      button.setAttribute("aria-expanded", String(!folded));
    });
    for (const block of group.blocks.list) {
      const row = group.rowOf(block.first);
      block.folded = this.folded.has(row.number) && block.first !== row.first;
    }
    this.all.textContent = this.every() ? "Unfold all" : "Fold all";
    this.all.hidden = group.data.rows.length === 0;
  }

  // Where folding hides a token, its rollout is unfolded.
  uncover(i) {
    const { group } = this;
    const row = group.rowOf(i);
    if (!this.folded.has(row.number)) return;
    const body = this.sections[group.owner[i]].body.getBoundingClientRect();
    if (group.blocks.ensure(i).getBoundingClientRect().bottom > body.bottom + 1) this.fold(row, false);
  }
}
