// The list of events: few rows however many events there are, drawn at most some times a second.

import { $, h, setText } from "./dom.js";
import { showEvent } from "./details.js";
import { EventStore } from "./event_store.js";
import { patternProblem } from "./topics.js";
import { number, timeOf } from "./words.js";

const ROWS = 200;
const SHORTEST = 100; // ms between two drawings
const SUMMARY = 300; // characters

export class EventList {
  #store = new EventStore();
  #list = $("event-list");
  #drawn = 0; // the number of the newest event that is drawn, or was left out by the filter
  #paused = null; // what the store had seen when it was paused
  #planned = false;
  #pause = SHORTEST;

  constructor() {
    $("pause").addEventListener("click", () => this.#togglePause());
    $("filter").addEventListener("input", () => this.#readFilter());
    $("filter").addEventListener("submit", (event) => event.preventDefault());
    this.#list.addEventListener("click", (event) => this.#open(event.target.closest("button")));
    this.#list.addEventListener("keydown", (event) => this.#move(event));
    this.#list.addEventListener("focusin", (event) => this.#makeCurrent(event.target.closest("button")));
  }

  add(frames) {
    for (const frame of frames) this.#store.addFrame(frame);
    this.#plan();
  }

  addGap(text) {
    this.#store.addGap(text);
    this.#plan();
  }

  // Drawing

  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#pause);
  }

  #draw() {
    const began = performance.now();
    this.#planned = false;
    if (this.#paused === null) {
      const fresh = this.#store.newest(ROWS, this.#drawn);
      this.#drawn = this.#store.seen;
      this.#put(fresh);
    }
    this.#tell();
    // Where drawing is dear it is done less often, so that there is time for the rest.
    this.#pause = Math.min(500, Math.max(SHORTEST, 4 * (performance.now() - began)));
  }

  #put(fresh) {
    if (!fresh.length) return;
    this.#list.prepend(...fresh.map(row));
    const focused = document.activeElement;
    while (this.#list.children.length > ROWS) this.#list.lastElementChild.remove();
    if (focused?.closest(".event") && !focused.isConnected) this.#rows().at(-1)?.focus();
    if (!this.#list.querySelector('button[tabindex="0"]')) this.#makeCurrent(this.#rows()[0]);
  }

  #redraw() {
    this.#list.replaceChildren();
    this.#put(this.#store.newest(ROWS));
    this.#drawn = this.#store.seen;
    this.#tell();
  }

  #tell() {
    const { size, matching } = this.#store;
    const filtered = matching < size ? `${number(matching)} of ${number(size)} match` : `${number(size)} kept`;
    const waiting = this.#paused === null ? 0 : this.#store.seen - this.#paused;
    setText($("event-count"), size ? filtered + (waiting ? `, ${number(waiting)} came meanwhile` : "") : "");
    const none = $("event-none");
    none.hidden = this.#list.children.length > 0;
    setText(none, size ? "No event passes the filter." : "No events yet.");
  }

  #togglePause() {
    this.#paused = this.#paused === null ? this.#store.seen : null;
    $("pause").setAttribute("aria-pressed", String(this.#paused !== null));
    setText($("pause"), this.#paused === null ? "Pause" : "Resume");
    this.#plan();
  }

  #readFilter() {
    const field = $("filter-topic");
    const pattern = field.value.trim() || "*";
    const problem = patternProblem(pattern);
    setText($("filter-error"), problem ?? "");
    field.setAttribute("aria-invalid", String(problem !== null));
    if (problem !== null) return;
    this.#store.filter = { pattern, type: $("filter-type").value, text: $("filter-text").value };
    this.#redraw();
  }

  // The keyboard: the list is one stop, the arrows move in it

  #rows() {
    return [...this.#list.querySelectorAll("button")];
  }

  #makeCurrent(button) {
    if (!button) return;
    for (const other of this.#list.querySelectorAll('button[tabindex="0"]')) other.tabIndex = -1;
    button.tabIndex = 0;
  }

  #move(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const rows = this.#rows();
    const now = rows.indexOf(document.activeElement);
    rows[Math.min(rows.length - 1, Math.max(0, now + step))]?.focus();
  }

  #open(button) {
    if (button) showEvent(raws.get(button));
  }
}

const raws = new WeakMap();

function row(item) {
  if (item.gap !== null) return h("li", { class: "gap" }, item.gap);
  const button = h(
    "button",
    { type: "button", class: "event", tabindex: "-1", data: { type: item.type } },
    h("time", {}, timeOf(item.time)),
    h("span", { class: "type" }, item.type),
    h("span", { class: "topic" }, item.topic ?? "(no topic)"),
    h("span", { class: "summary" }, summary(item.raw)),
  );
  raws.set(button, item.raw);
  return h("li", {}, button);
}

function summary(raw) {
  const { data } = JSON.parse(raw);
  const text = typeof data === "string" ? data : data === null ? "" : JSON.stringify(data);
  return text.length > SUMMARY ? `${text.slice(0, SUMMARY)}…` : text;
}
