// The event stream. An EventSource cannot send a token and hides why it is refused.

import { headers } from "./session.js";

const TIMEOUT = 45_000; // ms without data after which a connection is lost; the server sends heartbeats every 15 s
const MAX_DELAY = 10_000; // ms

/** Parses a text into frames (WHATWG HTML, section 9.2). */
export class Frames {
  #incomplete = "";
  #frame = { id: null, event: "message", data: [], retry: null };

  push(text) {
    const frames = [];
    const lines = (this.#incomplete + text).split("\n");
    this.#incomplete = lines.pop();
    for (const line of lines) this.#addLine(line.endsWith("\r") ? line.slice(0, -1) : line, frames);
    return frames;
  }

  #addLine(line, frames) {
    const frame = this.#frame;
    if (line === "") {
      if (frame.data.length) frames.push({ ...frame, data: frame.data.join("\n") });
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

/** Reads the events and reconnects after interruptions. */
export class Feed {
  #lastId = "";
  #failures = 0;
  #abort = null;
  #wake = null;
  #lostAt = null;
  #retry = null;

  /** onFrames gets frames, onConnect the report on missed events, onState the state of the connection. */
  constructor({ onFrames, onConnect, onState }) {
    this.onFrames = onFrames;
    this.onConnect = onConnect;
    this.onState = onState;
    addEventListener("online", () => this.wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.wake());
  }

  async run() {
    for (;;) {
      let delay = null;
      try {
        await this.#read();
        this.#lost(null);
      } catch (error) {
        this.#lost(error);
        if (error.status === 401) delay = MAX_DELAY; // or until the user enters a token
      }
      delay ??= this.#retry ?? Math.min(MAX_DELAY, 500 * 2 ** this.#failures) * (0.7 + 0.6 * Math.random());
      this.#retry = null;
      this.#failures += 1;
      await this.#sleep(delay);
      this.onState("waiting", "Reconnecting");
    }
  }

  /** Reconnect now. */
  wake() {
    this.#wake?.();
  }

  #lost(error) {
    this.#lostAt ??= Date.now();
    const reason = error?.status ? `: ${error.message}` : "";
    this.onState(error?.status === 401 ? "locked" : "lost", `Connection lost${reason}`);
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
    // At first an unknown id is sent, because the server then replays all events that it has.
    const lastId = encodeURIComponent(this.#lastId || "start");
    this.#abort = new AbortController();
    let timer = setTimeout(() => this.#abort.abort(), TIMEOUT);
    try {
      const response = await fetch(`api/events?last_event_id=${lastId}`, {
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
        timer = setTimeout(() => this.#abort.abort(), TIMEOUT);
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
      } else if (frame.event !== "heartbeat" || frame.data !== "null") {
        events.push(frame);
      }
      if (frame.id !== null) this.#lastId = frame.id;
    }
    this.onFrames(events);
  }

  #connected(report) {
    const away = this.#lostAt === null ? null : (Date.now() - this.#lostAt) / 1000;
    this.#failures = 0;
    this.#lostAt = null;
    this.onState("live", "Live");
    this.onConnect({ ...report, away, first: this.#lastId === "" });
  }
}

// Published events can have this type too; unlike notices they have metadata.
function isNotice(frame, name) {
  const data = JSON.parse(frame.data);
  return typeof data === "object" && data !== null && name in data && !("metadata" in data);
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  return Object.assign(new Error(text.slice(0, 300) || `status ${response.status}`), { status: response.status });
}
