// The page: passes on what the server sends to the sections.

import { showAlerts } from "./alerts.js";
import { $, h, setText, sync } from "./dom.js";
import { EventList } from "./event_list.js";
import { Feed } from "./feed.js";
import { showProcesses } from "./processes.js";
import { recentRate, showBreakers, showNotifications, showSinks, showStore, showTopics } from "./sections.js";
import { get, token } from "./session.js";
import { onChange, showSilences } from "./silences.js";
import { momentOf, momentOfId, plural, rate, span } from "./words.js";

const INTERVAL = 1000; // ms between requests for everything but events
const HIDDEN_INTERVAL = 10_000; // the same while the page is hidden

const list = new EventList();
let locked = false;
let timer = null;
let loading = false;
let reload = false; // load again as soon as the current request is done
let submitted = null; // the form whose token has not been tried yet

// Events

const feed = new Feed({
  onFrames: (frames) => frames.length && list.add(frames),
  onConnect: showGap,
  onState(state, text) {
    $("connection").dataset.state = state;
    setText($("connection-text"), text);
  },
});

function showGap({ resumed, replayed, first_available: available, away, first }) {
  if (first || away === null) return;
  const reconnected = `Reconnected after ${span(away)}`;
  if (resumed) {
    const missed = replayed ? `${plural(replayed, "missed event")} loaded` : "no events were missed";
    list.addGap(`${reconnected}: ${missed}`);
    showNotice(`${reconnected}: ${missed}.`);
    return;
  }
  const time = momentOfId(available);
  const isCursor = /^[0-9a-z-]+:\d+$/i.test(available ?? "");
  const oldest = isCursor ? "the server does not have all of them any more" : available ? `the oldest event on the server is ${time ? `from ${momentOf(time)}` : available}` : "the server has no earlier events";
  list.addGap(`${reconnected}: events may be missing here`);
  showNotice(`${reconnected}, but events may be missing: ${oldest}.`);
}

function showNotice(text) {
  $("notice").hidden = false;
  setText($("notice-text"), text);
}

$("notice-close").addEventListener("click", () => {
  $("notice").hidden = true;
});

// Everything but events

async function load() {
  clearTimeout(timer);
  reload = loading;
  if (loading) return;
  loading = true;
  const form = submitted;
  submitted = null;
  try {
    showState(await get("api/state"), form);
    document.body.classList.remove("stale");
  } catch (error) {
    document.body.classList.add("stale");
    if (error.status === 401) lock(form);
  }
  loading = false;
  if (reload) load();
  else if (!locked) timer = setTimeout(load, document.hidden ? HIDDEN_INTERVAL : INTERVAL);
}

document.addEventListener("visibilitychange", () => document.hidden || locked || load());
onChange(load);

function showState(state, form) {
  if (locked) unlock();
  if (form?.dataset.for === "act" && state.actions && !state.may_act) refuse(form);
  document.title = state.title;
  setText($("title"), state.title);
  const { problems } = state;
  showTopics(state.topics);
  showStore(state.store, problems.store);
  showProcesses(state.processes, problems.processes);
  showSinks(state.sinks, problems.sinks);
  showBreakers(state.breakers, problems.breakers, state.now);
  showAlerts(state.alerts, problems.alerts, state.may_act);
  showSilences(state.alerts, state);
  showNotifications(state.notifications, problems.notifications);
  showFigures(state);
}

function showFigures({ topics, alerts, breakers, sinks, store, processes }) {
  const figures = [{ name: "events per second", value: rate(recentRate(topics.counts)), to: "topics" }];
  if (store?.available === false) {
    figures.push({ name: "without the store", value: span(store.unavailable_for), to: "store", bad: true });
  }
  if (alerts?.groups) {
    const firing = alerts.groups.reduce((sum, group) => sum + group.firing, 0);
    figures.push({ name: firing === 1 ? "alert firing" : "alerts firing", value: String(firing), to: "alerts", bad: firing > 0 });
  }
  if (breakers) {
    const open = breakers.filter(({ state }) => ["open", "forced_open", "ejected"].includes(state)).length;
    figures.push({ name: open === 1 ? "breaker open" : "breakers open", value: String(open), to: "breakers", bad: open > 0 });
  }
  if (sinks) {
    const failing = sinks.filter(({ state }) => !["ok", "standby", "degraded", "closed"].includes(state)).length;
    figures.push({ name: failing === 1 ? "sink failing" : "sinks failing", value: String(failing), to: "sinks", bad: failing > 0 });
  }
  if (processes?.length > 1) {
    const gone = processes.filter(({ state }) => state === "gone").length;
    const running = processes.length - gone;
    const name = `${running === 1 ? "process" : "processes"}${gone ? `, ${gone} gone` : ""}`;
    figures.push({ name, value: String(running), to: "processes", bad: gone > 0 });
  }
  sync($("figures"), figures, (figure) => figure.to, ({ name, value, to, bad }) =>
    h("li", {}, h("a", { href: `#${to}`, class: bad ? "bad" : "", data: { part: to } }, h("strong", {}, value), ` ${name}`)),
  );
}

// The token

function lock(form) {
  locked = true;
  $("locked").hidden = false;
  $("main").hidden = true;
  if (form) refuse(form);
}

function unlock() {
  locked = false;
  $("locked").hidden = true;
  $("main").hidden = false;
  feed.wake();
}

function refuse(form) {
  token.forget();
  setText(form.querySelector(".error"), "Wrong token.");
  form.querySelector("input").focus();
}

for (const form of document.querySelectorAll(".token-form")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = form.querySelector("input");
    token.set(field.value.trim());
    field.value = "";
    setText(form.querySelector(".error"), "");
    submitted = form;
    load();
  });
}

load();
feed.run();
