// What a person does with mouse and keys in the group view.
const KEYS_REST = 120; // ms: keys repeat fast

class GroupHands {
  constructor(group) {
    this.group = group;
    this.wish = null; // offset that moving up and down keeps through shorter rollouts
    const on = (name, act) => group.box.addEventListener(name, act, group.while);
    on("click", (event) => this.click(event));
    on("mouseover", (event) => group.hover(event.target.closest?.(".t")));
    on("mouseleave", () => group.hover(null));
    on("keydown", (event) => this.key(event));
  }

  click(event) {
    const token = event.target.closest(".t");
    if (!token) return;
    this.wish = null;
    this.group.choose(Number(token.dataset.i), 0);
  }

  key(event) {
    const { group } = this;
    // Space and Enter on a button are the button's.
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("button")) return;
    if (!this.act(event.key, group.at)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Whether the key means anything here.
  act(key, from) {
    const { group } = this;
    if (!group.length) return false;
    const first = from < 0; // nothing is selected: any of them selects the first token
    const row = first ? null : group.rowOf(from);
    const steps = {
      ArrowLeft: () => Math.max(from - 1, row.first),
      ArrowRight: () => Math.min(from + 1, row.first + row.count - 1),
      Home: () => row.first,
      End: () => row.first + row.count - 1,
      ArrowUp: () => this.beside(from, -1),
      ArrowDown: () => this.beside(from, 1),
      Enter: () => from,
    };
    if (key === "f" && !first) group.parts.fold(row, !group.parts.folded.has(row.number));
    else if (!Object.hasOwn(steps, key)) return false;
    else {
      if (key !== "ArrowUp" && key !== "ArrowDown") this.wish = null;
      group.choose(first ? 0 : steps[key](), key === "Enter" ? 0 : KEYS_REST, { follow: true });
    }
    return true;
  }

  // The same offset in the next rollout that has tokens, or its last token.
  beside(from, step) {
    const { group } = this;
    const { rows } = group.data;
    const k = group.owner[from];
    this.wish ??= from - rows[k].first;
    for (let next = k + step; rows[next]; next += step) {
      if (rows[next].count) return rows[next].first + Math.min(this.wish, rows[next].count - 1);
    }
    return from;
  }
}
