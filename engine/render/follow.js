// Keeps the selected row of the page's table in sight: Streamlit marks a row but does not go there.
// A table the visitor has sorted is left alone, since its rows are not in the text's order.
const SORTED = /^[↑↓]/;

export default function follow({ data, parentElement }) {
  const root = parentElement.querySelector(".ts-follow");
  root.data = data;
  if (!root.stop) {
    const heard = ({ detail }) => {
      const { channel, text } = root.data;
      if (detail.channel !== channel || detail.signature !== text) return;
      const first = detail.first ?? detail.selection?.[0];
      if (first !== root.shown) show(root.data, (root.shown = first));
    };
    const names = ["tokenscope:select", "tokenscope:view"];
    for (const name of names) window.addEventListener(name, heard);
    root.stop = () => names.forEach((name) => window.removeEventListener(name, heard));
  }
  const view = window.tokenscopeViews?.get(data.channel);
  if (view?.signature === data.text && view.selection[0] !== root.shown) {
    // The table may still be on its way.
    const due = (tries) => {
      if (show(data, view.selection[0])) root.shown = view.selection[0];
      else if (tries) setTimeout(due, 100, tries - 1);
    };
    due(20);
  }
  return () => root.stop();
}

function show({ place, row, head }, position) {
  const scroller = document.querySelector(`.${CSS.escape(place)} .dvn-scroller`);
  if (!scroller) return false;
  const titles = [...document.querySelectorAll(`.${CSS.escape(place)} th`)];
  if (titles.some((title) => SORTED.test(title.textContent))) return true;
  const top = position * row, room = scroller.clientHeight - head;
  if (top < scroller.scrollTop || top + row > scroller.scrollTop + room) {
    scroller.scrollTop = Math.max(0, top - (room - row) / 2);
  }
  return true;
}
