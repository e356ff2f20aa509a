// Numbers and times in readable form.

const whole = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const short = new Intl.NumberFormat("en", { notation: "compact" });

export const number = (value) => whole.format(value);

/** Return 2K for 2,048. */
export const compact = (value) => short.format(value);

/** Return a rate with one decimal if it is below 10. */
export const rate = (value) => (value >= 10 || value === 0 ? whole.format(Math.round(value)) : value.toFixed(1));

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export function timeOf(text) {
  const moment = new Date(text);
  return Number.isNaN(moment.getTime()) ? String(text) : clock.format(moment);
}

/** Return a time, with the date unless it is today. */
export function momentOf(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return String(text);
  return moment.toDateString() === new Date().toDateString() ? clock.format(moment) : day.format(moment);
}

export function span(seconds) {
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min`;
  if (total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}

/** Return the time at which a UUID of version 7 was created (RFC 9562), or null. */
export function momentOfId(id) {
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-7/i.test(id ?? "")) return null;
  return new Date(parseInt(id.slice(0, 8) + id.slice(9, 13), 16));
}
