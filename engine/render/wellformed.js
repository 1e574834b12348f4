// Half a surrogate pair cannot be sent: the connection would break for good. So what is typed or
// pasted is mended before anything else sees it, and the page says so.
export default function wellformed({ setTriggerValue }) {
  const mend = (event) => {
    const field = event.target;
    if (!(field instanceof HTMLTextAreaElement || field instanceof HTMLInputElement)) return;
    if (!field.value || field.value.isWellFormed()) return;
    event.stopImmediatePropagation();
    const type = Object.getPrototypeOf(field);
    // React watches the property on the element; the prototype's setter goes past it.
    Object.getOwnPropertyDescriptor(type, "value").set.call(field, field.value.toWellFormed());
    field.dispatchEvent(new Event("input", { bubbles: true }));
    setTriggerValue("mended", true);
  };
  window.addEventListener("input", mend, true);
  return () => window.removeEventListener("input", mend, true);
}
