// Two answers to one question, the second appearing token by token as a model would say it.
const PER_SECOND = 28;

export default function stream({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".ts-stream");
  root.dataset.theme = themeOf(root);
  if (root.signature === data.signature) return;
  root.signature = data.signature;
  clearInterval(root.timer);
  const sides = data.sides.map(draw);
  root.replaceChildren(...sides.map((s) => s.node));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || data.still;
  for (const side of sides) {
    if (still || !side.streams) side.show(Infinity);
    else side.show(0);
  }
  const finish = () => {
    for (const side of sides) side.finish();
    setStateValue("finished", data.signature);
  };
  const live = sides.filter((s) => s.streams);
  if (still || !live.length) return finish();
  const began = performance.now();
  root.timer = setInterval(() => {
    const shown = Math.floor(((performance.now() - began) / 1000) * PER_SECOND);
    for (const side of live) side.show(shown);
    if (live.every((s) => shown >= s.count)) {
      clearInterval(root.timer);
      finish();
    }
  }, 1000 / PER_SECOND);
  return () => clearInterval(root.timer);
}

function draw({ title, pieces, answer, change, verdict, right, from, streams }) {
  const node = element("section", "side");
  node.append(element("h3", "", title));
  const text = element("div", "text");
  const tokens = pieces.map((piece, i) => {
    const token = fill(element("span", "t"), piece);
    if (i < change) token.classList.add("same");
    if (i === change) token.classList.add("change");
    if (i >= answer[0] && i < answer[1]) token.classList.add("answer");
    text.append(token);
    return token;
  });
  const end = element("div", right ? "verdict right" : "verdict wrong", verdict);
  node.append(text, end);
  return {
    node,
    streams,
    count: tokens.length - from,
    show(n) {
      tokens.forEach((token, i) => { token.hidden = i - from >= n; });
      end.style.visibility = "hidden";
    },
    finish() { end.style.visibility = ""; },
  };
}
