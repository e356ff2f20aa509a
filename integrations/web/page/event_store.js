// The newest events, up to a limit, and which of them match the filter.

import { matches } from "./topics.js";

const MAX_EVENTS = 10_000;
const MAX_CHARACTERS = 30_000_000;

export class EventStore {
  #items = [];
  #start = 0;
  #characters = 0;
  #filter = { pattern: "*", type: "", text: "" };
  seen = 0;
  matching = 0;

  get size() {
    return this.#items.length - this.#start;
  }

  addFrame(frame) {
    const { metadata, timestamp } = JSON.parse(frame.data);
    const topic = typeof metadata.topic === "string" ? metadata.topic : null;
    this.#add({ type: frame.event, topic, time: timestamp, raw: frame.data, gap: null });
  }

  /** Mark an interruption. */
  addGap(text) {
    this.#add({ type: "", topic: null, time: null, raw: "", gap: text });
  }

  #add(item) {
    item.number = this.seen += 1;
    item.matches = this.#matches(item);
    this.matching += item.matches;
    this.#characters += item.raw.length;
    this.#items.push(item);
    while (this.size > MAX_EVENTS || (this.#characters > MAX_CHARACTERS && this.size > 1)) this.#dropOldest();
  }

  #dropOldest() {
    const oldest = this.#items[this.#start];
    this.#items[this.#start] = undefined;
    this.#start += 1;
    this.#characters -= oldest.raw.length;
    this.matching -= oldest.matches;
    if (this.#start > MAX_EVENTS) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
  }

  set filter({ pattern, type, text }) {
    this.#filter = { pattern, type, text: text.toLowerCase() };
    this.matching = 0;
    for (let index = this.#start; index < this.#items.length; index += 1) {
      const item = this.#items[index];
      item.matches = this.#matches(item);
      this.matching += item.matches;
    }
  }

  #matches(item) {
    if (item.gap !== null) return true;
    const { pattern, type, text } = this.#filter;
    return (
      (type === "" || item.type === type) &&
      matches(pattern, item.topic) &&
      (text === "" || item.raw.toLowerCase().includes(text))
    );
  }

  /** Return the newest matching events with a number above `after`, newest first. */
  newest(limit, after = 0) {
    const items = [];
    for (let index = this.#items.length - 1; index >= this.#start && items.length < limit; index -= 1) {
      const item = this.#items[index];
      if (item.number <= after) break;
      if (item.matches) items.push(item);
    }
    return items;
  }
}
