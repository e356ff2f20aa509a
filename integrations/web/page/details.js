// One thing in full, over the page.

import { $, h } from "./dom.js";

$("details-close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close();
});

/** Show something in the dialog; the focus goes back to where it was when it is closed. */
export function show(title, ...content) {
  $("details-title").textContent = title;
  $("details-body").replaceChildren(...content);
  if (!$("details").open) $("details").showModal();
  $("details-body").scrollTop = 0;
}

export function showEvent(raw) {
  const event = JSON.parse(raw);
  const topic = typeof event.metadata.topic === "string" ? event.metadata.topic : "(no topic)";
  show(
    topic,
    facts({ Type: event.type, Time: event.timestamp, Id: event.id }),
    h("h3", {}, "Data"),
    code(JSON.parse(raw, exactly).data),
    h("h3", {}, "Metadata"),
    code(JSON.parse(raw, exactly).metadata),
  );
}

export function facts(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return h("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

const code = (value) => h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));

/** Keep numbers as they were written: JavaScript would round large ones. */
function exactly(_, value, context) {
  const lossy = typeof value === "number" && context?.source && JSON.rawJSON && String(value) !== context.source;
  return lossy ? JSON.rawJSON(context.source) : value;
}
