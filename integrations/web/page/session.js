// The token, for as long as the tab is open, and requests that carry it.

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
  const given = token.get();
  return given ? { Authorization: `Bearer ${encodeHeader(given)}` } : {};
}

// A header holds no other characters; a token that has some is wrong anyway.
const encodeHeader = (text) => text.replace(/[^\x20-\x7e]/g, "?");

export async function get(path) {
  return read(await fetch(path, { headers: headers(), cache: "no-store" }));
}

export async function post(path, form) {
  const body = JSON.stringify(form);
  const sent = { "Content-Type": "application/json", ...headers() };
  return read(await fetch(path, { method: "POST", headers: sent, body, cache: "no-store" }));
}

async function read(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, body);
  return body;
}
