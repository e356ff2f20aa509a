// The alerts by group, and why each goes where it goes.

import { chips } from "./chips.js";
import { show } from "./details.js";
import { $, h, mark, setText, sync } from "./dom.js";
import { badge, tellChanges } from "./sections.js";
import { get } from "./session.js";
import { offerSilence } from "./silences.js";
import { momentOf, plural } from "./words.js";

export function showAlerts(alerts, problem, mayAct) {
  $("alerts").hidden = alerts === null || alerts === undefined;
  if ($("alerts").hidden) return;
  const groups = alerts.groups ?? [];
  const silences = new Map((alerts.silences ?? []).map((silence) => [silence.id, silence]));
  tellChanges("group", groups.map((group) => [group.key, group.status, `${group.status}: ${nameOf(group)}`]));
  const shown = groups.map(({ next_tick: _, ...group }) => ({
    ...group,
    mayAct,
    alerts: group.alerts.map((alert) => ({ ...alert, kept: keptBack(alert.suppressed, silences) })),
  }));
  sync($("group-list"), shown, (group) => group.key, groupItem);
  setText($("alerts-more"), alerts.others ? `and ${plural(alerts.others, "group")} more` : "");
  mark($("alerts"), groups.length, problem);
}

const nameOf = (group) => Object.values(group.labels).join(" ") || "all alerts";

function keptBack(suppressed, silences) {
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
  const told = Object.entries(group.told).map(([channel, at]) => `${channel} told at ${momentOf(at)}`);
  const notes = [
    ...told,
    group.under_way.length > 0 && `now telling ${group.under_way.join(", ")}`,
    group.given_up.length > 0 && `gave up on ${group.given_up.join(", ")}`,
    told.length + group.under_way.length + group.given_up.length === 0 && "nobody was told yet",
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
      h("span", { class: "receiver" }, h("span", { "aria-label": "goes to" }, "→ "), group.receiver),
    ),
    h("p", { class: "muted" }, notes.join(" · ")),
    h("ul", { class: "alert-list" }, ...group.alerts.map((alert) => alertItem(alert, group))),
    group.others > 0 && h("p", { class: "muted" }, `and ${plural(group.others, "alert")} more`),
  );
}

function alertItem(alert, group) {
  const said = alert.annotations.summary ?? alert.annotations.description ?? Object.values(alert.annotations)[0];
  const part = alert.fingerprint;
  return h(
    "li",
    {},
    h(
      "button",
      { type: "button", class: "alert", data: { part }, on: { click: () => explain(alert, group) } },
      h("span", { class: "alert-line" }, alert.status !== group.status && badge(alert.status), chips(alert.labels, group.labels)),
      h("span", { class: "said" }, said ?? "", " ", h("span", { class: "muted" }, `since ${momentOf(alert.startsAt)}`)),
      alert.kept && h("span", { class: "kept" }, alert.kept),
    ),
    group.mayAct &&
      !alert.kept &&
      h("button", { type: "button", class: "small", data: { part: `silence ${part}` }, on: { click: () => offerSilence(alert.labels) } }, "Silence"),
  );
}

// Why

async function explain(alert, group) {
  const title = alert.labels.alertname ?? nameOf(group);
  show(title, h("p", { class: "muted" }, "Asking"));
  try {
    const found = await get(`api/explain?fingerprint=${encodeURIComponent(alert.fingerprint)}`);
    show(title, ...alertFacts(alert), h("h3", {}, `Goes to ${found.receivers.join(", ")}`), tree(found.root));
  } catch (error) {
    show(title, ...alertFacts(alert), h("p", { class: "error", role: "alert" }, error.message));
  }
}

function alertFacts(alert) {
  const notes = Object.entries(alert.annotations).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return [chips(alert.labels), notes.length > 0 ? h("dl", { class: "facts" }, ...notes) : ""];
}

const tree = (root) => h("ul", { class: "tree" }, node(root));

function node(seen) {
  const line = seen.line === null ? "" : `, line ${seen.line}`;
  const state = seen.taken ? "taken" : seen.matched ? "passed" : "left";
  return h(
    "li",
    { data: { state } },
    h("p", {}, h("strong", {}, `${seen.path}${line}`), `: ${seen.why}`),
    ...seen.matchers.map((each) => h("p", { class: each.holds ? "holds" : "fails" }, matcherText(each))),
    seen.taken && taken(seen.taken),
    seen.children.length > 0 && h("ul", {}, ...seen.children.map(node)),
  );
}

function matcherText({ matcher, value, missing, holds }) {
  const is = missing ? "there is no such label" : `it is ${JSON.stringify(value)}`;
  return `${matcher} ${holds ? "holds" : "does not hold"}: ${is}`;
}

function taken({ receiver, group_labels: labels, settings, notes }) {
  const from = ({ path, line }) => (path === null ? "default" : `${path}${line === null ? "" : `, line ${line}`}`);
  const rows = settings.map((each) => h("tr", {}, h("th", { scope: "row" }, each.name), h("td", {}, each.value), h("td", { class: "muted" }, from(each))));
  return h(
    "div",
    { class: "taken" },
    h("p", {}, "Goes to ", h("strong", {}, receiver), Object.keys(labels).length ? " in the group " : "", chips(labels)),
    ...notes.map((note) => h("p", { class: "kept" }, note)),
    h("table", {}, h("tbody", {}, ...rows)),
  );
}
