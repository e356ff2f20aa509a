// Labels, each with its value.

import { h } from "./dom.js";

export function chips(labels, without = {}) {
  const shown = Object.entries(labels ?? {}).filter(([name, value]) => without[name] !== value);
  return h(
    "span",
    { class: "chips" },
    ...shown.map(([name, value]) => h("span", { class: "chip" }, h("span", { class: "key" }, `${name}=`), value)),
  );
}
