// What a person does with mouse and keys in a flow graph.
const REACH_EDGE = 5; // px from the pointer to the edge it means

class FlowHands {
  constructor(view) {
    this.view = view;
    const { plot, nodes } = view;
    plot.addEventListener("pointermove", (event) => this.move(event));
    plot.addEventListener("pointerleave", () => view.hoverAt(null));
    plot.addEventListener("click", (event) => this.click(event));
    nodes.addEventListener("focusin", (event) => this.focused(event));
    nodes.addEventListener("focusout", () => view.hoverAt(null));
  }

  // The item under the pointer, else the nearest edge within reach.
  under(event) {
    const node = event.target.closest?.("[data-n]");
    if (node) return { item: Number(node.dataset.n) };
    const box = this.view.plot.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = Infinity;
    for (const ribbon of this.view.ribbons) {
      const half = strokeOf(ribbon.flow, this.view.mostFlow) / 2;
      const reach = REACH_EDGE + half;
      const away = awayFrom(ribbon.curve, x, y, reach);
      // From a wide edge its border counts, and of two alike the one drawn on top.
      const far = Math.max(0, Math.sqrt(away) - half);
      if (away <= reach * reach && far <= least) [best, least] = [ribbon, far];
    }
    return best ? { ribbon: best } : null;
  }

  move(event) {
    this.view.hoverAt(this.under(event), event.clientX, event.clientY);
  }

  click(event) {
    const found = this.under(event);
    if (found?.item !== undefined) this.view.take(found.item);
    else if (found) this.view.takeRibbon(found.ribbon);
    else this.view.calm();
  }

  focused(event) {
    const n = Number(event.target.dataset.n);
    this.view.here = n;
    const box = event.target.getBoundingClientRect();
    if (event.target.matches(":focus-visible")) this.view.hoverAt({ item: n }, box.right, box.bottom);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { view } = this;
    if (event.key === "Escape") view.calm();
    else if (!view.nodes.contains(event.target)) return;
    else if (event.key === "Enter" || event.key === " ") view.take(view.here);
    else {
      const next = this.next(event.key);
      if (next === null) return;
      view.focusOn(next);
    }
    event.preventDefault();
    event.stopPropagation();
  }

  next(key) {
    const { items } = this.view.layout;
    const n = this.view.here;
    if (key === "Home") return 0;
    if (key === "End") return items.length - 1;
    if (key === "ArrowDown") return Math.min(n + 1, items.length - 1);
    if (key === "ArrowUp") return Math.max(n - 1, 0);
    if (key !== "ArrowLeft" && key !== "ArrowRight") return null;
    const column = items[n].column + (key === "ArrowLeft" ? -1 : 1);
    let best = n;
    items.forEach((item, m) => {
      if (item.column !== column) return;
      if (items[best].column !== column || Math.abs(item.y - items[n].y) < Math.abs(items[best].y - items[n].y)) best = m;
    });
    return best;
  }
}
