// The whole text in one narrow picture: the colour of the strongest value in each cell, so that a
// single culprit stays visible, and where the view, the selection, the matches and the marks are.
const CELL = 3; // px
const TICK = 4; // px

class Minimap {
  constructor(strip) {
    this.strip = strip;
    this.canvas = strip.root.querySelector(".map");
    this.base = document.createElement("canvas"); // what scrolling does not change
    this.canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.canvas.setPointerCapture(event.pointerId);
      this.scroll(event);
    }, strip.while);
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.canvas.hasPointerCapture(event.pointerId)) this.scroll(event);
    }, strip.while);
  }

  scroll(event) {
    const { box, blocks } = this.strip;
    const share = (event.clientY - this.canvas.getBoundingClientRect().top) / this.canvas.clientHeight;
    box.scrollTop = share * box.scrollHeight - box.clientHeight / 2;
    blocks.near();
    this.soon();
  }

  // Redraws in the next frame; `anew` also what scrolling does not change.
  soon(anew = false) {
    this.anew ||= anew;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  close() {
    cancelAnimationFrame(this.frame);
  }

  draw() {
    const { box, blocks, levels } = this.strip;
    const needed = box.clientHeight > 0 && box.scrollHeight > box.clientHeight + 4;
    if (this.canvas.hidden === needed) {
      this.canvas.hidden = !needed;
      this.anew = true;
    }
    if (!needed || !levels) return;
    const [width, height] = [this.canvas.clientWidth, box.clientHeight];
    const density = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * density) || this.canvas.height !== Math.round(height * density)) {
      for (const canvas of [this.canvas, this.base]) {
        canvas.width = Math.round(width * density);
        canvas.height = Math.round(height * density);
      }
      this.canvas.style.height = `${height}px`;
      this.anew = true;
    }
    if (this.anew) {
      this.anew = false;
      const total = box.scrollHeight;
      this.places = blocks.list.map(({ node, first, last }) => {
        const top = (node.offsetTop / total) * height;
        return { first, last, top, each: ((node.offsetHeight / total) * height) / (last - first + 1) };
      });
      this.drawBase(width, height, density);
    }
    this.drawOver(width, height, density);
  }

  y(i) {
    let low = 0, high = this.places.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.places[middle].last >= i) high = middle;
      else low = middle + 1;
    }
    const { first, top, each } = this.places[low];
    return top + (i - first) * each;
  }

  // Rows of cells, read like the text: the tokens of a row from left to right.
  drawBase(width, height, density) {
    const { levels, colors, strength, root, tools } = this.strip;
    const style = getComputedStyle(root);
    [this.ink, this.muted, this.accent] = ["--fg", "--muted", "--accent"].map((name) => style.getPropertyValue(name).trim());
    const paper = this.base.getContext("2d");
    paper.setTransform(density, 0, 0, density, 0, 0);
    paper.clearRect(0, 0, width, height);
    paper.fillStyle = this.ink;
    let before = -1;
    for (const i of tools.matches.first) {
      const y = Math.round(this.y(i));
      if (y !== before) paper.fillRect(0, y, TICK - 1, 2);
      before = y;
    }
    if (!colors) return;
    const inner = width - TICK;
    const most = Math.floor(inner / CELL);
    let place = 0, from = 0;
    for (let y = 0; y < height && from < levels.length; y += CELL) {
      let to = from;
      for (; to < levels.length; to += 1) {
        while (place < this.places.length - 1 && this.places[place].last < to) place += 1;
        const { first, top, each } = this.places[place];
        if (top + (to - first) * each >= y + CELL) break;
      }
      const cells = Math.min(most, to - from);
      for (let c = 0; c < cells; c += 1) {
        const start = from + Math.floor(((to - from) * c) / cells), end = from + Math.floor(((to - from) * (c + 1)) / cells);
        let best = -1, level = -1;
        for (let i = start; i < end; i += 1) {
          const here = levels[i] < 0 ? -1 : strength(levels[i]);
          if (here > best) [best, level] = [here, levels[i]];
        }
        if (best <= 0) continue;
        paper.fillStyle = colors[level];
        paper.fillRect(TICK + (inner * c) / cells, y, inner / cells, CELL);
      }
      from = to;
    }
  }

  drawOver(width, height, density) {
    const { box, selection, marks } = this.strip;
    const paper = this.canvas.getContext("2d");
    paper.setTransform(1, 0, 0, 1, 0, 0);
    paper.clearRect(0, 0, this.canvas.width, this.canvas.height);
    paper.drawImage(this.base, 0, 0);
    paper.setTransform(density, 0, 0, density, 0, 0);
    const total = box.scrollHeight;
    const top = (box.scrollTop / total) * height, tall = Math.max(6, (box.clientHeight / total) * height);
    paper.globalAlpha = 0.13;
    paper.fillStyle = this.ink;
    paper.fillRect(TICK, top, width - TICK, tall);
    paper.globalAlpha = 0.6;
    paper.strokeStyle = this.muted;
    paper.lineWidth = 1;
    paper.strokeRect(TICK + 0.5, top + 0.5, width - TICK - 1, tall - 1);
    paper.globalAlpha = 1;
    paper.fillStyle = this.accent;
    for (const [position, { kind }] of marks) {
      if (kind === "culprit") paper.fillRect(0, Math.round(this.y(position)) - 1, width, 3);
    }
    if (selection) {
      const [from, to] = [Math.min(...selection), Math.max(...selection)];
      const [y, end] = [Math.round(this.y(from)), Math.round(this.y(to))];
      paper.fillRect(0, y, width, 2);
      if (end > y + 2) {
        paper.fillRect(0, end, width, 2);
        paper.fillRect(0, y, TICK - 2, end - y);
      }
    }
  }
}
