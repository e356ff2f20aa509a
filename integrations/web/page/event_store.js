// The events that the page has: the newest ones, within bounds, and those that pass the filter.

import { matches } from "./topics.js";

const MOST = 10_000;
const MOST_CHARACTERS = 30_000_000;

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

  /** Note that there was a break here. */
  addGap(text) {
    this.#add({ type: "", topic: null, time: null, raw: "", gap: text });
  }

  #add(item) {
    item.number = this.seen += 1;
    item.passes = this.#passes(item);
    this.matching += item.passes;
    this.#characters += item.raw.length;
    this.#items.push(item);
    while (this.size > MOST || (this.#characters > MOST_CHARACTERS && this.size > 1)) this.#dropOldest();
  }

  #dropOldest() {
    const oldest = this.#items[this.#start];
    this.#items[this.#start] = undefined;
    this.#start += 1;
    this.#characters -= oldest.raw.length;
    this.matching -= oldest.passes;
    if (this.#start > MOST) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
  }

  set filter({ pattern, type, text }) {
    this.#filter = { pattern, type, text: text.toLowerCase() };
    this.matching = 0;
    for (let place = this.#start; place < this.#items.length; place += 1) {
      const item = this.#items[place];
      item.passes = this.#passes(item);
      this.matching += item.passes;
    }
  }

  #passes(item) {
    if (item.gap !== null) return true;
    const { pattern, type, text } = this.#filter;
    return (
      (type === "" || item.type === type) &&
      matches(pattern, item.topic) &&
      (text === "" || item.raw.toLowerCase().includes(text))
    );
  }

  /** Give those that pass and came after a number, newest first, so many at most. */
  newest(most, after = 0) {
    const found = [];
    for (let place = this.#items.length - 1; place >= this.#start && found.length < most; place -= 1) {
      const item = this.#items[place];
      if (item.number <= after) break;
      if (item.passes) found.push(item);
    }
    return found;
  }
}
