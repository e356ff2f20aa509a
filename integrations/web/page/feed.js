// The events as the server sends them. Not an EventSource, as that sends no token and hides why it is refused.

import { headers } from "./session.js";

const SILENCE = 45_000; // ms after which a connection is taken for dead; the server gives a sign each 15 s
const LONGEST = 10_000;

/** Takes a text apart into frames (WHATWG HTML, section 9.2). */
export class Frames {
  #rest = "";
  #frame = { id: null, event: "message", data: [], retry: null };

  push(text) {
    const found = [];
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) this.#take(line.endsWith("\r") ? line.slice(0, -1) : line, found);
    return found;
  }

  #take(line, found) {
    const frame = this.#frame;
    if (line === "") {
      if (frame.data.length) found.push({ ...frame, data: frame.data.join("\n") });
      this.#frame = { id: null, event: "message", data: [], retry: null };
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") frame.data.push(value);
    else if (name === "id") frame.id = value;
    else if (name === "event") frame.event = value;
    else if (name === "retry" && /^\d+$/.test(value)) frame.retry = Number(value);
  }
}

/** Reads the events, and connects again by itself for as long as there is hope. */
export class Feed {
  #lastId = "";
  #tries = 0;
  #abort = null;
  #wake = null;
  #lostAt = null;
  #retry = null;

  /** onFrames gets frames; onConnect what the server says of what was missed; onState how it is. */
  constructor({ onFrames, onConnect, onState }) {
    this.onFrames = onFrames;
    this.onConnect = onConnect;
    this.onState = onState;
    addEventListener("online", () => this.wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.wake());
  }

  async run() {
    for (;;) {
      let wait = null;
      try {
        await this.#read();
        this.#lost(null);
      } catch (error) {
        this.#lost(error);
        if (error.status === 401) wait = LONGEST; // or until there is a token
      }
      wait ??= this.#retry ?? Math.min(LONGEST, 500 * 2 ** this.#tries) * (0.7 + 0.6 * Math.random());
      this.#retry = null;
      this.#tries += 1;
      await this.#sleep(wait);
      this.onState("waiting", "Connecting again");
    }
  }

  /** Wait no longer. */
  wake() {
    this.#wake?.();
  }

  #lost(error) {
    this.#lostAt ??= Date.now();
    const why = error?.status ? `: ${error.message}` : "";
    this.onState(error?.status === 401 ? "locked" : "lost", `Connection lost${why}`);
  }

  #sleep(ms) {
    return new Promise((done) => {
      const timer = setTimeout(done, ms);
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    }).finally(() => {
      this.#wake = null;
    });
  }

  async #read() {
    // Who asks for what came after an event that is unknown gets all that the server has: at first, that is wanted.
    const asked = encodeURIComponent(this.#lastId || "start");
    this.#abort = new AbortController();
    let timer = setTimeout(() => this.#abort.abort(), SILENCE);
    try {
      const response = await fetch(`api/events?last_event_id=${asked}`, {
        headers: { Accept: "text/event-stream", ...headers() },
        cache: "no-store",
        signal: this.#abort.signal,
      });
      if (!response.ok) throw await refusal(response);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const frames = new Frames();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => this.#abort.abort(), SILENCE);
        this.#deliver(frames.push(value));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #deliver(frames) {
    let events = [];
    for (const frame of frames) {
      if (frame.event === "connect" && isNotice(frame, "resumed")) {
        this.onFrames(events);
        events = [];
        this.#connected(JSON.parse(frame.data));
      } else if (frame.event === "disconnect" && frame.retry !== null) {
        this.#retry = frame.retry;
      } else {
        events.push(frame);
      }
      if (frame.id !== null) this.#lastId = frame.id;
    }
    this.onFrames(events);
  }

  #connected(told) {
    const away = this.#lostAt === null ? null : (Date.now() - this.#lostAt) / 1000;
    this.#tries = 0;
    this.#lostAt = null;
    this.onState("live", "Live");
    this.onConnect({ ...told, away, first: this.#lastId === "" });
  }
}

// A stream may have events of this type too; those are whole events, with an id in their data.
function isNotice(frame, name) {
  const told = JSON.parse(frame.data);
  return typeof told === "object" && told !== null && name in told && !("metadata" in told);
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  return Object.assign(new Error(text.slice(0, 300) || `status ${response.status}`), { status: response.status });
}
