// The dialog that shows an event or an alert in full.

import { $, h } from "./dom.js";

$("details-close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close();
});

/** Show something in the dialog; closing it restores the focus. */
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
    facts({ Type: event.type, Time: event.timestamp, ID: event.id }),
    h("h3", {}, "Data"),
    code(JSON.parse(raw, exactNumber).data),
    h("h3", {}, "Metadata"),
    code(JSON.parse(raw, exactNumber).metadata),
  );
}

export function facts(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return h("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

const code = (value) => h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));

/** Keep numbers as they were sent, because JavaScript rounds large ones. */
function exactNumber(_, value, context) {
  const lossy = typeof value === "number" && context?.source && JSON.rawJSON && String(value) !== context.source;
  return lossy ? JSON.rawJSON(context.source) : value;
}
