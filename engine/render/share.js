// "Copy link" and "Copy as Python": what is shown, to be taken along.
const OURS = ["text", "result", "model", "select"];

export default function share({ data, parentElement }) {
  const root = parentElement.querySelector(".ts-share");
  root.dataset.theme = themeOf(root);
  const parts = [];
  if (data.link) parts.push(button("Copy link", () => address(data)));
  if (data.python) parts.push(button("Copy as Python", () => data.python));
  if (data.note) parts.push(element("span", "note", data.note));
  root.replaceChildren(...parts);
}

// The page's own widgets keep their parameters; what is shown is said anew.
function address({ link, page }) {
  const here = new URL(location.href);
  for (const name of OURS) here.searchParams.delete(name);
  for (const [name, value] of Object.entries(link)) here.searchParams.set(name, value);
  here.hash = "";
  if (page) here.pathname = here.pathname.replace(/[^/]*$/, page);
  return here.href;
}

function button(label, text) {
  const node = element("button", "", label);
  node.type = "button";
  node.setAttribute("aria-live", "polite");
  node.addEventListener("click", async () => {
    const done = await write(text());
    node.textContent = done ? "Copied" : "Copying is not allowed here";
    setTimeout(() => { node.textContent = label; }, 1600);
  });
  return node;
}

// Without https there is no clipboard API; the old way still works.
async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
