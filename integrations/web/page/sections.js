// Topics, sinks, circuit breakers and notifications.

import { band, chart, drawChart } from "./charts.js";
import { $, announce, h, setText, showStatus, sync } from "./dom.js";
import { chips } from "./chips.js";
import { compact, momentOf, number, plural, rate, timeOf } from "./words.js";

const RATE_SECONDS = 5;
const BAND_MINUTES = 15;

export const recentRate = (counts) => counts.slice(-RATE_SECONDS).reduce((sum, count) => sum + count, 0) / RATE_SECONDS;

// Topics: rows are kept, and only their numbers and charts change

const rows = new Map();

export function showTopics(topics) {
  const list = $("topic-list");
  const all = { topic: "all topics", counts: topics.counts, total: topics.total, all: true };
  const topicsShown = [all, ...topics.shown];
  const used = new Set();
  for (const each of topicsShown) {
    const key = each.all ? 0 : each.topic === null ? 1 : `:${each.topic}`;
    const row = rows.get(key) ?? topicRow(each);
    rows.set(key, row);
    used.add(key);
    drawChart(row.image, each.counts);
    setText(row.rate, rate(recentRate(each.counts)));
    const of = topics.window == null ? "in total" : `among the newest ${number(topics.window)}`;
    row.rate.title = `${plural(each.total, "event")} ${of}, at most ${number(Math.max(...each.counts))} per second`;
    if (list.children[used.size - 1] !== row.element) list.insertBefore(row.element, list.children[used.size - 1] ?? null);
  }
  for (const [key, row] of rows) {
    if (used.has(key)) continue;
    row.element.remove();
    rows.delete(key);
  }
  setText($("topics-more"), topics.others ? `and ${plural(topics.others, "more topic")}` : "");
}

function topicRow({ topic, all }) {
  const image = chart();
  const number = h("span", { class: "number" });
  const name = h("span", { class: "name" }, topic ?? "(no topic)");
  return { image, rate: number, element: h("li", all ? { class: "all" } : {}, name, image, number) };
}

// The store of a durable stream

/** `store` is null for a stream in memory, and an empty list if its state is not available. */
export function showStore(store, problem) {
  $("store").hidden = store === null || store === undefined;
  if ($("store").hidden) return;
  const states = problem ? [] : [{ ...store, unavailable_for: 0 }];
  announceChanges("store", states.map(({ available }) => ["store", available, available ? "The store is available" : "The store is not available"]));
  sync($("store-state"), states, () => "store", storeRow);
  showStatus($("store"), states.length, problem);
}

function storeRow({ available, problems, warnings, store, name, pending }) {
  const state = available ? (problems.length ? "degraded" : "ok") : "failed";
  const word = { ok: "ok", degraded: "lost events", failed: "not available" }[state];
  const waiting = available && pending ? ` · ${plural(pending, "event")} being stored` : "";
  return h(
    "li",
    {},
    h("p", {}, badge(state, word), " ", h("strong", {}, name), h("span", { class: "muted" }, ` in ${store}${waiting}`)),
    ...problems.map((text) => h("p", { class: "reason" }, text)),
    ...warnings.map((text) => h("p", { class: "muted" }, text)),
  );
}

// Sinks

export const SINK_WORDS = {
  ok: "ok",
  standby: "standby",
  degraded: "lost events",
  losing: "losing events",
  retrying: "retrying",
  not_open: "not open",
  open: "circuit open",
  not_started: "not started",
  closed: "closed",
};

export function showSinks(sinks, problem) {
  $("sinks").hidden = sinks === null || sinks === undefined;
  if ($("sinks").hidden) return;
  const key = (sink) => JSON.stringify([sink.of, sink.name]);
  announceChanges("sink", sinks.map((sink) => [key(sink), sink.state, `Sink ${sink.name} is ${SINK_WORDS[sink.state] ?? sink.state}`]));
  const shown = sinks.map(({ oldest_age: age, last_success: _, ...sink }) => ({ ...sink, late: age >= 5 ? Math.round(age) : 0 }));
  sync($("sink-table"), shown, key, sinkBody);
  $("sink-table").hidden = sinks.length === 0;
  showStatus($("sinks"), sinks.length, problem);
}

function sinkBody(sink) {
  const dropped = Object.entries(sink.dropped);
  const total = dropped.reduce((sum, [, count]) => sum + count, 0);
  const of = sink.of === null ? null : h("span", { class: "muted" }, ` of ${sink.of}`);
  const where = placesOf(sink.processes ?? []);
  const queued = sink.queued + sink.in_flight;
  // A sink of a durable stream has no queue of its own; what waits for it is in the store.
  const queue = sink.capacity ? `${number(queued)} / ${compact(sink.capacity)}` : queued ? number(queued) : "–";
  const cells = [queue, ...[sink.delivered, sink.retried, total, sink.dead].map(number)];
  const bad = [false, false, sink.retried > 0, total > 0, sink.dead > 0];
  const name = h("th", { scope: "row", class: "name" }, badge(sink.state, SINK_WORDS[sink.state]), " ", h("span", {}, sink.name), of);
  const notes = [
    sink.last_error && `Last error: ${sink.last_error}`,
    total > 0 && `Dropped: ${dropped.map(([reason, count]) => `${reason} ${number(count)}`).join(", ")}`,
    sink.late > 0 && `Oldest event: queued for ${sink.late} s`,
  ].filter(Boolean);
  return h(
    "tbody",
    {},
    h("tr", {}, name, ...cells.map((cell, index) => h("td", { class: bad[index] ? "number bad" : "number" }, cell))),
    where && h("tr", {}, h("td", { class: "note places", colspan: 6 }, where)),
    notes.length > 0 && h("tr", {}, h("td", { class: "note", colspan: 6 }, ...notes.map((note) => h("p", {}, note)))),
  );
}

/** Return in how many processes a sink is in which state; null if it is the same in all, or there is only one. */
function placesOf(processes) {
  const count = processes.reduce((sum, { names }) => sum + names.length, 0);
  if (count < 2) return null;
  const parts = processes.map(({ state, names }) => {
    const where = names.length === 1 ? names[0] : `${number(names.length)} processes`;
    return h("span", { title: names.join(", ") }, `${SINK_WORDS[state] ?? state} in ${where}`);
  });
  return h("p", {}, ...parts.flatMap((part, index) => (index ? [" · ", part] : [part])));
}

// Circuit breakers

export function showBreakers(breakers, problem, now) {
  $("breakers").hidden = breakers === null || breakers === undefined;
  if ($("breakers").hidden) return;
  const key = (each) => JSON.stringify([each.source, each.service, each.breaker]);
  announceChanges("breaker", breakers.map((each) => [key(each), each.state, `Circuit breaker ${each.breaker} is ${each.summary}`]));
  const minute = Math.floor(now / 10) * 10; // the band is redrawn every ten seconds
  sync($("breaker-list"), breakers.map((each) => ({ ...each, minute })), key, tile);
  showStatus($("breakers"), breakers.length, problem);
}

const words = (state) => (state ?? "unknown").replaceAll("_", " ");

function tile(each) {
  const changes = each.history.length ? each.history : each.state === null ? [] : [[each.since, each.state]];
  const facts = [
    each.failures !== null && plural(each.failures, "failure"),
    each.rejected > 0 && `${number(each.rejected)} rejected`,
    each.opened_last_hour > 0 && `opened ${each.opened_last_hour === 1 ? "once" : `${number(each.opened_last_hour)} times`} in the last hour`,
  ].filter(Boolean);
  const where = each.service === null ? each.source : `${each.service} · ${each.source}`;
  return h(
    "li",
    { class: "tile", data: { state: each.state ?? "unknown" } },
    h("p", { class: "name" }, each.breaker),
    h("p", {}, badge(each.state ?? "unknown", each.summary), h("span", { class: "muted" }, ` since ${momentOf(each.since)}`)),
    h("div", { title: `State in the last ${BAND_MINUTES} minutes` }, band(changes, each.minute * 1000 + 10_000, BAND_MINUTES)),
    h("p", { class: "muted" }, [where, ...facts].join(" · ")),
    each.reason && h("p", { class: "reason" }, each.reason),
    h(
      "details",
      { data: { part: "history" } },
      h("summary", { data: { part: "history-summary" } }, "History"),
      Object.keys(each.instances).length > 1 &&
        h("ul", { class: "history" }, ...Object.entries(each.instances).map(([name, state]) => h("li", {}, name, " ", words(state)))),
      h("ol", { class: "history" }, ...[...changes].reverse().map(([time, state]) => h("li", {}, h("time", {}, momentOf(time)), " ", words(state)))),
    ),
  );
}

// Notifications

export function showNotifications(events, problem) {
  $("notifications").hidden = events === null || events === undefined;
  if ($("notifications").hidden) return;
  sync($("notification-list"), events, (event) => event.id, notification);
  showStatus($("notifications"), events.length, problem);
}

function notification(event) {
  const { data } = event;
  const decision = String(event.metadata.topic).replace(/^alerts\./, "");
  const line = (state, word, ...rest) =>
    h("li", {}, h("time", {}, timeOf(event.timestamp)), badge(state, word), h("div", {}, ...rest));
  if (decision === "notified" || decision === "failed") {
    const counts = [data.firing && `${data.firing} firing`, data.resolved && `${data.resolved} resolved`].filter(Boolean);
    const to = h("strong", {}, data.channel ?? data.receiver);
    const detail = h("span", { class: "muted" }, ` ${[data.reason, ...counts].join(" · ")} `);
    const error = data.error && h("p", { class: "reason" }, data.error);
    const state = decision === "failed" ? "failed" : data.status;
    return line(state, decision === "failed" ? "failed" : data.status, to, detail, chips(data.group_labels), error);
  }
  if (decision === "suppressed") return line("suppressed", "suppressed", h("strong", {}, data.reason), " ", chips(data.labels));
  if (decision === "reloaded") return line("ok", "reloaded", data.file ?? "configuration");
  if (decision === "reload_failed") return line("failed", "reload failed", h("p", { class: "reason" }, data.error));
  return line("unknown", decision, JSON.stringify(data));
}

// Shared

export const badge = (state, word) => h("span", { class: "badge", data: { state } }, word ?? state);

const previous = new Map();

/** Announce which items have changed their state; items are [key, state, text]. */
export function announceChanges(kind, items) {
  const before = previous.get(kind);
  previous.set(kind, new Map(items.map(([key, state]) => [key, state])));
  if (before) announce(items.filter(([key, state]) => before.get(key) !== state).slice(0, 5).map(([, , text]) => text));
}
