// Shared by every component: draws marked text without ever writing HTML, and formats numbers.
const DIM = "\x01", BOX = "\x02", END = "\x03";
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Fills `node` with a token: plain runs as text, marked runs as <i> (signs) or <b> (codes).
function fill(node, markup) {
  node.textContent = "";
  let at = 0;
  while (at < markup.length) {
    const mark = markup[at];
    if (mark === DIM || mark === BOX) {
      const end = markup.indexOf(END, at);
      node.append(element(mark === DIM ? "i" : "b", "", markup.slice(at + 1, end)));
      at = end + 1;
    } else {
      let end = at;
      while (end < markup.length && markup[end] !== DIM && markup[end] !== BOX) end += 1;
      node.append(markup.slice(at, end));
      at = end;
    }
  }
  return node;
}

const bare = (markup) => markup.replaceAll(/[\x01-\x03]/g, "");

// Three significant digits, or a whole number; very small and very large ones as powers of ten.
function number(value, whole = false) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  if (whole) return value.toLocaleString("en-US");
  const [mantissa, power] = value.toExponential(2).split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 6) {
    const digits = String(Math.abs(exponent)).replace(/\d/g, (d) => SUPERSCRIPT[d]);
    return `${mantissa}·10${exponent < 0 ? "⁻" : ""}${digits}`.replace("-", "−");
  }
  const places = Math.max(0, 2 - exponent);
  const fixed = value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return fixed.replace("-", "−");
}

// Light or dark by the page's own background, so that a theme switch needs no server. Where it has
// none (a notebook's cell, a bare file) by its text, which is light on dark.
function themeOf(node) {
  if (matchMedia("(forced-colors: active)").matches) {
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }
  const given = getComputedStyle(node).getPropertyValue("--st-background-color").trim();
  const page = getComputedStyle(document.body);
  const probe = element("span");
  node.append(probe);
  const lightness = (color) => {
    probe.style.color = color;
    // A component that was just taken from the page has no colours: black, until it is gone.
    const [r, g, b, alpha = 1] = (getComputedStyle(probe).color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
    return alpha < 0.5 ? null : (0.299 * r + 0.587 * g + 0.114 * b) / 255;
  };
  const light = lightness(given || page.backgroundColor) ?? 1 - lightness(page.color);
  probe.remove();
  return light > 0.5 ? "light" : "dark";
}
