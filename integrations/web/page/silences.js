// Silences and the form for adding one.

import { $, announce, h, setText, sync } from "./dom.js";
import { badge } from "./sections.js";
import { post, token } from "./session.js";
import { momentOf } from "./words.js";

const FIELDS = ["matchers", "duration", "created_by", "comment"];
const MAX_EXPIRED = 5; // expired silences shown

let changed = () => {};

/** Set the function that is called after each change. */
export function onChange(callback) {
  changed = callback;
}

export function showSilences(alerts, { actions, may_act: mayAct }) {
  $("silences").hidden = alerts === null || alerts === undefined;
  if ($("silences").hidden) return;
  const all = alerts.silences ?? [];
  const expired = all.filter((silence) => silence.state === "expired").slice(0, MAX_EXPIRED);
  const shown = [...all.filter((silence) => silence.state !== "expired"), ...expired];
  sync($("silence-list"), shown.map((silence) => ({ ...silence, mayAct })), (silence) => silence.id, item);
  $("silences").querySelector(".empty").hidden = shown.length > 0;
  $("silence-token").hidden = !actions || mayAct;
  $("silence-form").hidden = !mayAct;
}

function item(silence) {
  const matchers = silence.matchers.join(", ");
  const by = silence.created_by ? `by ${silence.created_by}` : "";
  const end = `${silence.state === "expired" ? "ended" : "until"} ${momentOf(silence.ends_at * 1000)}`;
  const button = h(
    "button",
    { type: "button", class: "small", data: { part: "expire" }, "aria-label": `Expire the silence ${matchers}`, on: { click: () => expire(silence) } },
    "Expire",
  );
  return h(
    "li",
    { data: { state: silence.state } },
    h("div", {}, badge(silence.state), " ", h("code", {}, matchers), h("p", { class: "muted" }, [end, by].filter(Boolean).join(" ")), silence.comment && h("p", {}, silence.comment)),
    silence.mayAct && silence.state !== "expired" && button,
  );
}

/** Fill in the form for an alert and scroll to it. */
export function offerSilence(labels) {
  const name = (text) => (/^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(text) ? text : JSON.stringify(text));
  $("silence-matchers").value = Object.entries(labels).map(([label, value]) => `${name(label)}=${JSON.stringify(value)}`).join(", ");
  $("silence-form").scrollIntoView({ block: "center" });
  $("silence-duration").focus({ preventScroll: true });
}

$("silence-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = Object.fromEntries(FIELDS.map((name) => [name, $(`silence-${name}`).value]));
  showProblems({});
  await act("api/silences", form, () => {
    $("silence-matchers").value = "";
    $("silence-comment").value = "";
    announce(["Silence added"]);
  });
});

$("forget-token").addEventListener("click", () => {
  token.forget();
  changed();
});

const expire = (silence) => act("api/silences/expire", { id: silence.id }, () => announce(["Silence expired"]));

async function act(path, form, done) {
  try {
    await post(path, form);
    done();
  } catch (error) {
    showProblems(Object.keys(error.problems ?? {}).length ? error.problems : { "": error.message });
  }
  changed();
}

/** Show each problem beside its field. */
function showProblems(problems) {
  for (const name of FIELDS) {
    setText($(`silence-${name}-error`), problems[name] ?? "");
    $(`silence-${name}`).setAttribute("aria-invalid", String(name in problems));
  }
  setText($("silence-error"), problems[""] ?? "");
  const first = FIELDS.find((name) => name in problems);
  if (first) $(`silence-${first}`).focus();
}
