// The processes that use a durable stream.

import { $, h, setText, showStatus, sync } from "./dom.js";
import { SINK_WORDS, announceChanges, badge } from "./sections.js";
import { momentOf, plural } from "./words.js";

export function showProcesses(processes, problem) {
  $("processes").hidden = processes === null || processes === undefined;
  if ($("processes").hidden) return;
  const gone = processes.filter(({ state }) => state === "gone").length;
  announceChanges("process", processes.map(({ id, name, state }) => [id, state, `Process ${name} is ${state}`]));
  setText($("processes-count"), problem ? "" : `${processes.length - gone} running${gone ? `, ${gone} gone` : ""}`);
  // What changes with each report would make the row new every time.
  const shown = processes.map(({ reported_at: last, ...each }) => (each.state === "gone" ? { ...each, last } : each));
  sync($("process-list"), shown, ({ id }) => id, processRow);
  showStatus($("processes"), processes.length, problem);
}

function processRow({ name, state, started_at: since, last, pages, sinks, more_sinks: more }) {
  const facts = [
    state === "gone" ? `last heard of at ${momentOf(last)}` : `since ${momentOf(since)}`,
    state !== "gone" && pages > 0 && plural(pages, "open page"),
    more > 0 && `and ${plural(more, "more sink")}`,
  ].filter(Boolean);
  return h(
    "li",
    { data: { state } },
    h("p", {}, badge(state), " ", h("strong", {}, name), h("span", { class: "muted" }, ` ${facts.join(" · ")}`)),
    sinks.length > 0 && h("p", { class: "process-sinks" }, ...sinks.flatMap((sink) => [sinkChip(sink, state), " "])),
  );
}

function sinkChip({ name, state, error }, process) {
  const word = SINK_WORDS[state] ?? state;
  const shown = process === "gone" ? "unknown" : state;
  return h("span", { class: "badge", data: { state: shown }, title: error }, state === "ok" ? name : `${name} ${word}`);
}
