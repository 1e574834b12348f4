// Conditions such as `rank > 10 and entropy > 2`: numbers, names of signals, + - * /, comparisons,
// and, or, not, brackets. A parser and nothing else: no text is ever run as code.
const SIGN = /\s*(?:(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)|([\p{L}_][\p{L}\p{N}_]*)|(>=|<=|==|!=|<>|&&|\|\||[<>=≥≤≠!()+\-−*×/÷]))/iuy;
const SAME = { "≥": ">=", "≤": "<=", "≠": "!=", "<>": "!=", "==": "=", "&&": "and", "||": "or", "!": "not", "−": "-", "×": "*", "÷": "/" };
const EXAMPLE = "rank > 10 and entropy > 2";
const LONGEST_CONDITION = 300;

class Refusal extends Error {}

// `known` maps each name to a function of the position, in `truth` where it is true or false. Returns a function of the position that
// says true, false, or null where a value it depends on is missing. Throws a Refusal.
function condition(text, known) {
  const signs = signsOf(text);
  let at = 0;
  const take = (...wanted) => (wanted.includes(signs[at]?.sign) ? signs[at++].sign : null);
  const before = () => (at ? ` after “${signs[at - 1].text}”` : "");

  function either() {
    let left = both();
    while (take("or")) left = { truth: or(truth(left), truth(both())), text: left.text };
    return left;
  }
  function both() {
    let left = negated();
    while (take("and")) left = { truth: and(truth(left), truth(negated())), text: left.text };
    return left;
  }
  function negated() {
    if (!take("not")) return comparison();
    const inner = truth(negated());
    return { truth: (i) => not(inner(i)), text: "not …" };
  }
  // As in mathematics, 1 < rank < 10 compares twice.
  function comparison() {
    let left = sum(), all = null;
    for (let sign = compares(); sign; sign = compares()) {
      const right = sum();
      const part = compared(sign, amount(left), amount(right));
      all = all ? and(all, part) : part;
      left = right;
    }
    return all ? { truth: all, text: "a comparison" } : left;
  }
  const compares = () => take(">", "<", ">=", "<=", "=", "!=");
  function sum() {
    let left = product();
    for (let sign = take("+", "-"); sign; sign = take("+", "-")) {
      const [a, b] = [amount(left), amount(product())];
      left = { amount: sign === "+" ? (i) => a(i) + b(i) : (i) => a(i) - b(i), text: left.text };
    }
    return left;
  }
  function product() {
    let left = factor();
    for (let sign = take("*", "/"); sign; sign = take("*", "/")) {
      const [a, b] = [amount(left), amount(factor())];
      left = { amount: sign === "*" ? (i) => a(i) * b(i) : (i) => a(i) / b(i), text: left.text };
    }
    return left;
  }
  function factor() {
    if (take("-")) {
      const inner = factor(), a = amount(inner);
      return { amount: (i) => -a(i), text: inner.text };
    }
    if (take("(")) {
      const inner = either();
      if (!take(")")) throw new Refusal(`A closing bracket is missing${before()}.`);
      return inner;
    }
    const next = signs[at];
    if (next?.number !== undefined) {
      at += 1;
      return { amount: () => next.number, text: next.text };
    }
    if (next?.name) {
      const read = known.get(next.name);
      if (!read) throw new Refusal(`“${next.text}” is not known: use ${[...known.keys()].join(", ")}.`);
      at += 1;
      return read.truth ? { truth: read.truth, text: next.text } : { amount: read, text: next.text };
    }
    if (next) throw new Refusal(`A number or a name is missing before “${next.text}”.`);
    throw new Refusal(`A number or a name is missing${before()}.`);
  }

  if (!signs.length) throw new Refusal(`Write a condition, as in ${EXAMPLE}.`);
  const whole = either();
  if (at < signs.length) throw new Refusal(`“${signs[at].text}” is not expected${before()}: join parts with and, or.`);
  return truth(whole);
}

function signsOf(text) {
  if (text.length > LONGEST_CONDITION) throw new Refusal(`A condition has at most ${LONGEST_CONDITION} characters.`);
  const signs = [];
  const end = text.trimEnd().length;
  SIGN.lastIndex = 0;
  while (SIGN.lastIndex < end) {
    const start = SIGN.lastIndex;
    const found = SIGN.exec(text);
    if (!found) {
      const odd = String.fromCodePoint(text.slice(start).trimStart().codePointAt(0));
      throw new Refusal(`“${odd}” has no place in a condition such as ${EXAMPLE}.`);
    }
    const [, digits, word, sign] = found;
    const lower = (word ?? "").toLowerCase();
    if (digits !== undefined) signs.push({ number: Number(digits), text: digits });
    else if (["and", "or", "not"].includes(lower)) signs.push({ sign: lower, text: word });
    else if (word !== undefined) signs.push({ name: lower, text: word });
    else signs.push({ sign: SAME[sign] ?? sign, text: sign });
  }
  return signs;
}

function truth(part) {
  if (part.truth) return part.truth;
  throw new Refusal(`“${part.text}” is a number: compare it, as in ${/^[\d.]/.test(part.text) ? "rank" : part.text} > 10.`);
}

function amount(part) {
  if (part.amount) return part.amount;
  throw new Refusal(`Use ${part.text === "a comparison" ? part.text : `“${part.text}”`} as it is, joined by and, or: it is no number.`);
}

const COMPARED = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b,
  "<=": (a, b) => a <= b, "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

function compared(sign, left, right) {
  const holds = COMPARED[sign];
  return (i) => {
    // Signals are 32-bit numbers: only rounded alike does 0.3 equal 0.3.
    const [a, b] = [Math.fround(left(i)), Math.fround(right(i))];
    return Number.isNaN(a) || Number.isNaN(b) ? null : holds(a, b);
  };
}

// Logic with a third value: of a missing number nothing is claimed, nor its opposite.
const not = (a) => (a === null ? null : !a);
const and = (one, other) => (i) => {
  const [a, b] = [one(i), other(i)];
  return a === false || b === false ? false : a === null || b === null ? null : true;
};
const or = (one, other) => (i) => {
  const [a, b] = [one(i), other(i)];
  return a === true || b === true ? true : a === null || b === null ? null : false;
};
