// The list of events: a limited number of rows, drawn at most ten times per second.

import { $, h, setText } from "./dom.js";
import { showEvent } from "./details.js";
import { EventStore } from "./event_store.js";
import { patternProblem } from "./topics.js";
import { number, timeOf } from "./words.js";

const ROWS = 200;
const MIN_DELAY = 100; // ms before drawing
const MAX_SUMMARY = 300; // characters

export class EventList {
  #store = new EventStore();
  #list = $("event-list");
  #drawn = 0; // the number of the newest event that is drawn or filtered out
  #pausedAt = null; // the number of events at the time of the pause
  #scheduled = false;
  #delay = MIN_DELAY;

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
    this.#schedule();
  }

  addGap(text) {
    this.#store.addGap(text);
    this.#schedule();
  }

  // Drawing

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#delay);
  }

  #draw() {
    const began = performance.now();
    this.#scheduled = false;
    if (this.#pausedAt === null) {
      const items = this.#store.newest(ROWS, this.#drawn);
      this.#drawn = this.#store.seen;
      this.#put(items);
    }
    this.#showCount();
    // Slow drawing is done less often, so that the page stays responsive.
    this.#delay = Math.min(500, Math.max(MIN_DELAY, 4 * (performance.now() - began)));
  }

  #put(items) {
    if (!items.length) return;
    this.#list.prepend(...items.map(row));
    const focused = document.activeElement;
    while (this.#list.children.length > ROWS) this.#list.lastElementChild.remove();
    if (focused?.closest(".event") && !focused.isConnected) this.#rows().at(-1)?.focus();
    if (!this.#list.querySelector('button[tabindex="0"]')) this.#makeCurrent(this.#rows()[0]);
  }

  #redraw() {
    this.#list.replaceChildren();
    this.#put(this.#store.newest(ROWS));
    this.#drawn = this.#store.seen;
    this.#showCount();
  }

  #showCount() {
    const { size, matching } = this.#store;
    const filtered = matching < size ? `${number(matching)} of ${number(size)} match` : `${number(size)} loaded`;
    const waiting = this.#pausedAt === null ? 0 : this.#store.seen - this.#pausedAt;
    setText($("event-count"), size ? filtered + (waiting ? `, ${number(waiting)} new` : "") : "");
    const none = $("event-none");
    none.hidden = this.#list.children.length > 0;
    setText(none, size ? "No events match the filter." : "No events yet.");
  }

  #togglePause() {
    this.#pausedAt = this.#pausedAt === null ? this.#store.seen : null;
    $("pause").setAttribute("aria-pressed", String(this.#pausedAt !== null));
    setText($("pause"), this.#pausedAt === null ? "Pause" : "Resume");
    this.#schedule();
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

  // The keyboard: the list is one tab stop; arrow keys move within it

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
    const current = rows.indexOf(document.activeElement);
    rows[Math.min(rows.length - 1, Math.max(0, current + step))]?.focus();
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
  return text.length > MAX_SUMMARY ? `${text.slice(0, MAX_SUMMARY)}…` : text;
}
