// The token, kept while the tab is open, and requests that carry it.

const KEY = "codomyrmex-token";

export class Refusal extends Error {
  constructor(status, body) {
    super(body.error ?? `the server answered ${status}`);
    this.status = status;
    this.problems = body.problems ?? {};
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export function headers() {
  const value = token.get();
  return value ? { Authorization: `Bearer ${encodeHeader(value)}` } : {};
}

// Headers cannot hold other characters; a token with such characters is wrong anyway.
const encodeHeader = (text) => text.replace(/[^\x20-\x7e]/g, "?");

export async function get(path) {
  return read(await fetch(path, { headers: headers(), cache: "no-store" }));
}

export async function post(path, form) {
  const body = JSON.stringify(form);
  const sentHeaders = { "Content-Type": "application/json", ...headers() };
  return read(await fetch(path, { method: "POST", headers: sentHeaders, body, cache: "no-store" }));
}

async function read(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, body);
  return body;
}
