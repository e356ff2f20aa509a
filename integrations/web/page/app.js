// The page: what comes from the server goes to its sections.

import { showAlerts } from "./alerts.js";
import { $, h, setText, sync } from "./dom.js";
import { EventList } from "./event_list.js";
import { Feed } from "./feed.js";
import { lately, showBreakers, showNotifications, showSinks, showTopics } from "./sections.js";
import { get, token } from "./session.js";
import { onChange, showSilences } from "./silences.js";
import { momentOf, momentOfId, plural, rate, span } from "./words.js";

const EVERY = 1000; // ms between two looks at what is not an event
const HIDDEN = 10_000; // the same where nobody looks

const list = new EventList();
let locked = false;
let next = null;
let asking = false;
let again = false;
let tried = null; // the form that gave a token which was not tried yet

// Events

const feed = new Feed({
  onFrames: (frames) => frames.length && list.add(frames),
  onConnect: tellMissed,
  onState(state, text) {
    $("connection").dataset.state = state;
    setText($("connection-text"), text);
  },
});

function tellMissed({ resumed, replayed, first_available: available, away, first }) {
  if (first || away === null) return;
  const gone = `after ${span(away)}`;
  if (resumed) {
    const came = replayed ? `${plural(replayed, "event")} that came meanwhile follow${replayed === 1 ? "s" : ""}` : "nothing was missed";
    list.addGap(`Connected again ${gone}: ${came}`);
    notice(`Connected again ${gone}: ${replayed ? `${plural(replayed, "event")} came meanwhile and ${replayed === 1 ? "is" : "are"} shown.` : "nothing was missed."}`);
    return;
  }
  const since = momentOfId(available);
  const oldest = available ? `the oldest that the server still has is ${since ? `of ${momentOf(since)}` : available}` : "the server has none of before";
  list.addGap(`Connected again ${gone}: events may be missing here`);
  notice(`Connected again ${gone}, but events may be missing: ${oldest}.`);
}

function notice(text) {
  $("notice").hidden = false;
  setText($("notice-text"), text);
}

$("notice-close").addEventListener("click", () => {
  $("notice").hidden = true;
});

// All else

async function look() {
  clearTimeout(next);
  again = asking;
  if (asking) return;
  asking = true;
  const form = tried;
  tried = null;
  try {
    showState(await get("api/state"), form);
    document.body.classList.remove("stale");
  } catch (error) {
    document.body.classList.add("stale");
    if (error.status === 401) lock(form);
  }
  asking = false;
  if (again) look();
  else if (!locked) next = setTimeout(look, document.hidden ? HIDDEN : EVERY);
}

document.addEventListener("visibilitychange", () => document.hidden || locked || look());
onChange(look);

function showState(state, form) {
  if (locked) unlock();
  if (form?.dataset.for === "act" && state.actions && !state.may_act) refuse(form);
  document.title = state.title;
  setText($("title"), state.title);
  const { problems } = state;
  showTopics(state.topics);
  showSinks(state.sinks, problems.sinks);
  showBreakers(state.breakers, problems.breakers, state.now);
  showAlerts(state.alerts, problems.alerts, state.may_act);
  showSilences(state.alerts, state);
  showNotifications(state.notifications, problems.notifications);
  showFigures(state);
}

function showFigures({ topics, alerts, breakers, sinks }) {
  const figures = [{ name: "events a second", value: rate(lately(topics.counts)), to: "topics" }];
  if (alerts?.groups) {
    const firing = alerts.groups.reduce((sum, group) => sum + group.firing, 0);
    figures.push({ name: firing === 1 ? "alert fires" : "alerts fire", value: String(firing), to: "alerts", bad: firing > 0 });
  }
  if (breakers) {
    const open = breakers.filter(({ state }) => ["open", "forced_open", "ejected"].includes(state)).length;
    figures.push({ name: open === 1 ? "breaker open" : "breakers open", value: String(open), to: "breakers", bad: open > 0 });
  }
  if (sinks) {
    const failing = sinks.filter(({ state }) => state === "open" || state === "retrying").length;
    figures.push({ name: failing === 1 ? "sink fails" : "sinks fail", value: String(failing), to: "sinks", bad: failing > 0 });
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
  setText(form.querySelector(".error"), "This is not the right token.");
  form.querySelector("input").focus();
}

for (const form of document.querySelectorAll(".token-form")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = form.querySelector("input");
    token.set(field.value.trim());
    field.value = "";
    setText(form.querySelector(".error"), "");
    tried = form;
    look();
  });
}

look();
feed.run();
