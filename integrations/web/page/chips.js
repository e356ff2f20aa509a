// Labels with their values.

import { h } from "./dom.js";

export function chips(labels, omitted = {}) {
  const shown = Object.entries(labels ?? {}).filter(([name, value]) => omitted[name] !== value);
  return h(
    "span",
    { class: "chips" },
    ...shown.map(([name, value]) => h("span", { class: "chip" }, h("span", { class: "key" }, `${name}=`), value)),
  );
}
