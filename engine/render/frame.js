// What holds on every page: texts that cannot be sent as they are, and boxes by keyboard.
export default function frame({ data, setTriggerValue }) {
  const listeners = { ...fields(data?.most ?? Infinity, setTriggerValue), keydown: walk };
  for (const [name, hear] of Object.entries(listeners)) window.addEventListener(name, hear, true);
  return () => {
    for (const [name, hear] of Object.entries(listeners)) {
      window.removeEventListener(name, hear, true);
    }
  };
}

// What is typed, pasted or dropped into a field, seen before anything else sees it.
//
// Half a surrogate pair cannot be sent: the connection would break for good, so it is mended. Above
// the size the server takes it hangs up without a word, so a larger text is kept out and the field
// stays as it was. Either way the page says so.
function fields(most, setTriggerValue) {
  const before = new WeakMap();

  const refuse = (event, field, size) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    setTriggerValue("refused", { size });
  };
  // Asked before the text is in the field: laying out 60 MB would take the browser many seconds.
  const ask = (event) => {
    const field = fieldOf(event);
    if (!field) return;
    before.set(field, field.value);
    const brought = event.clipboardData ?? event.dataTransfer;
    const text = event.data ?? brought?.getData("text/plain") ?? "";
    const kept = field.value.length - (field.selectionEnd ?? 0) + (field.selectionStart ?? 0);
    // Three bytes a code unit at most: most texts need no counting.
    if (3 * (kept + text.length) <= most) return;
    const size = bytes(text) + bytes(field.value.slice(0, field.selectionStart ?? 0))
      + bytes(field.value.slice(field.selectionEnd ?? 0));
    if (size > most) refuse(event, field, size);
  };
  const mend = (event) => {
    const field = fieldOf(event);
    if (!field?.value) return;
    // Set by a program or a browser's own filling in: nobody asked before.
    if (3 * field.value.length > most) {
      const size = bytes(field.value);
      if (size > most) {
        const kept = before.get(field) ?? "";
        refuse(event, field, size);
        put(field, 3 * kept.length > most ? "" : kept);
        return;
      }
    }
    if (!field.value.isWellFormed()) {
      event.stopImmediatePropagation();
      put(field, field.value.toWellFormed());
      setTriggerValue("mended", true);
    }
  };
  return { paste: ask, drop: ask, beforeinput: ask, input: mend };
}

function fieldOf({ target }) {
  return target instanceof HTMLTextAreaElement || target instanceof HTMLInputElement ? target : null;
}

// React watches the property on the element; the prototype's setter goes past it.
function put(field, text) {
  const type = Object.getPrototypeOf(field);
  Object.getOwnPropertyDescriptor(type, "value").set.call(field, text);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

// Of its UTF-8 spelling, without making a copy of a text that may be huge.
function bytes(text) {
  let count = 0;
  for (let i = 0; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    count += code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
    // The two halves of a pair are four bytes together.
    if (code >= 0xd800 && code < 0xdc00 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      count += 1;
      i += 1;
    }
  }
  return count;
}

// A box that opens stands at the end of the document: Tab would first walk through the whole page.
function walk(event) {
  if (event.key !== "Tab" || event.altKey || event.ctrlKey || event.metaKey) return;
  const body = document.querySelector("[data-testid=stPopoverBody]");
  const opener = document.querySelector("[data-testid=stPopoverButton][aria-expanded=true]");
  if (!body || !opener) return;
  const inside = [...body.querySelectorAll("button, input, select, textarea, a[href], summary")]
    .filter((node) => !node.disabled && node.tabIndex >= 0 && node.offsetParent);
  const edge = event.shiftKey ? inside[0] : inside.at(-1);
  const at = document.activeElement;
  let next = null;
  if (at === opener && !event.shiftKey) next = inside[0];
  else if (edge && at === edge) next = opener;
  if (!next) return;
  event.preventDefault();
  next.focus();
}
