// The alerts by group, and how each is routed.

import { chips } from "./chips.js";
import { show } from "./details.js";
import { $, h, setText, showStatus, sync } from "./dom.js";
import { badge, announceChanges } from "./sections.js";
import { get } from "./session.js";
import { offerSilence } from "./silences.js";
import { momentOf, plural } from "./words.js";

export function showAlerts(alerts, problem, mayAct) {
  $("alerts").hidden = alerts === null || alerts === undefined;
  if ($("alerts").hidden) return;
  const groups = alerts.groups ?? [];
  const silences = new Map((alerts.silences ?? []).map((silence) => [silence.id, silence]));
  announceChanges("group", groups.map((group) => [group.key, group.status, `${group.status}: ${nameOf(group)}`]));
  const shown = groups.map(({ next_tick: _, ...group }) => ({
    ...group,
    mayAct,
    alerts: group.alerts.map((alert) => ({ ...alert, suppression: suppressionText(alert.suppressed, silences) })),
  }));
  sync($("group-list"), shown, (group) => group.key, groupItem);
  setText($("alerts-more"), alerts.others ? `and ${plural(alerts.others, "more group")}` : "");
  showStatus($("alerts"), groups.length, problem);
}

const nameOf = (group) => Object.values(group.labels).join(" ") || "all alerts";

function suppressionText(suppressed, silences) {
  if (suppressed === null) return null;
  const silence = silences.get(suppressed.by);
  if (silence) {
    const by = silence.created_by ? ` by ${silence.created_by}` : "";
    const why = silence.comment ? `: ${silence.comment}` : "";
    return `silenced${by} until ${momentOf(silence.ends_at * 1000)}${why}`;
  }
  if (suppressed.why === "inhibited") return "inhibited by another alert";
  return [suppressed.why, suppressed.by].filter(Boolean).join(" ");
}

function groupItem(group) {
  const notified = Object.entries(group.notified).map(([channel, time]) => `${channel} notified at ${momentOf(time)}`);
  const notes = [
    ...notified,
    group.in_flight.length > 0 && `notifying ${group.in_flight.join(", ")}`,
    group.failed.length > 0 && `failed to notify ${group.failed.join(", ")}`,
    notified.length + group.in_flight.length + group.failed.length === 0 && "not notified yet",
  ].filter(Boolean);
  const labels = Object.keys(group.labels).length ? chips(group.labels) : h("span", { class: "muted" }, "all alerts");
  return h(
    "li",
    { class: "group", data: { state: group.status } },
    h(
      "div",
      { class: "group-head" },
      badge(group.status),
      labels,
      h("span", { class: "receiver" }, h("span", { "aria-label": "routed to" }, "→ "), group.receiver),
    ),
    h("p", { class: "muted" }, notes.join(" · ")),
    h("ul", { class: "alert-list" }, ...group.alerts.map((alert) => alertItem(alert, group))),
    group.others > 0 && h("p", { class: "muted" }, `and ${plural(group.others, "more alert")}`),
  );
}

function alertItem(alert, group) {
  const text = alert.annotations.summary ?? alert.annotations.description ?? Object.values(alert.annotations)[0];
  const part = alert.fingerprint;
  return h(
    "li",
    {},
    h(
      "button",
      { type: "button", class: "alert", data: { part }, on: { click: () => explain(alert, group) } },
      h("span", { class: "alert-line" }, alert.status !== group.status && badge(alert.status), chips(alert.labels, group.labels)),
      h("span", { class: "text" }, /^[[{]/.test(text ?? "") ? h("code", {}, text) : text, " ", h("span", { class: "muted" }, `since ${momentOf(alert.startsAt)}`)),
      alert.suppression && h("span", { class: "suppression" }, alert.suppression),
    ),
    group.mayAct &&
      !alert.suppression &&
      h("button", { type: "button", class: "small", data: { part: `silence ${part}` }, on: { click: () => offerSilence(alert.labels) } }, "Silence"),
  );
}

// How an alert is routed

async function explain(alert, group) {
  const title = alert.labels.alertname ?? nameOf(group);
  show(title, h("p", { class: "muted" }, "Loading…"));
  try {
    const found = await get(`api/explain?fingerprint=${encodeURIComponent(alert.fingerprint)}`);
    show(title, ...alertFacts(alert), h("h3", {}, `Routed to ${found.receivers.join(", ")}`), tree(found.root));
  } catch (error) {
    show(title, ...alertFacts(alert), h("p", { class: "error", role: "alert" }, error.message));
  }
}

function alertFacts(alert) {
  const notes = Object.entries(alert.annotations).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return [chips(alert.labels), notes.length > 0 ? h("dl", { class: "facts" }, ...notes) : ""];
}

const tree = (root) => h("ul", { class: "tree" }, node(root));

function node(route) {
  const line = route.line === null ? "" : `, line ${route.line}`;
  const state = route.match ? "match" : route.matched ? "passed" : "other";
  return h(
    "li",
    { data: { state } },
    h("p", {}, h("strong", {}, `${route.path}${line}`), `: ${route.why}`),
    ...route.matchers.map((each) => h("p", { class: each.holds ? "holds" : "fails" }, matcherText(each))),
    route.match && match(route.match),
    route.children.length > 0 && h("ul", {}, ...route.children.map(node)),
  );
}

function matcherText({ matcher, value, missing, holds }) {
  const actual = missing ? "the label is missing" : `the value is ${JSON.stringify(value)}`;
  return `${matcher} ${holds ? "matches" : "does not match"}: ${actual}`;
}

function match({ receiver, group_labels: labels, settings, notes }) {
  const from = ({ path, line }) => (path === null ? "default" : `${path}${line === null ? "" : `, line ${line}`}`);
  const rows = settings.map((each) => h("tr", {}, h("th", { scope: "row" }, each.name), h("td", {}, each.value), h("td", { class: "muted" }, from(each))));
  return h(
    "div",
    { class: "match" },
    h("p", {}, "Routed to ", h("strong", {}, receiver), Object.keys(labels).length ? " in group " : "", chips(labels)),
    ...notes.map((note) => h("p", { class: "suppression" }, note)),
    h("table", {}, h("tbody", {}, ...rows)),
  );
}
