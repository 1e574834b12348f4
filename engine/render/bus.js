// Tells every view on the page what is shown and selected; tiny, so that a click sends little.
export default function bus({ data }) {
  const views = (window.tokenscopeViews ??= new Map());
  views.set(data.channel, data);
  window.dispatchEvent(new CustomEvent("tokenscope:view", { detail: data }));
}
