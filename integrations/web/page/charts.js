// Sparklines of event counts, and bands of breaker states.

import { svg } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 24;

/** Draw counts per second into an image created by `chart`. */
export function drawChart(image, counts) {
  const most = Math.max(1, ...counts);
  const step = WIDTH / (counts.length - 1);
  const points = counts.map((count, index) => [index * step, HEIGHT - 1 - (count / most) * (HEIGHT - 3)]);
  const line = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  image.querySelector(".line").setAttribute("d", `M${line}`);
  image.querySelector(".area").setAttribute("d", `M0 ${HEIGHT}L${line}L${WIDTH} ${HEIGHT}Z`);
}

export function chart() {
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "area" }),
    svg("path", { class: "line" }),
  );
}

/** Return a band of the states in the last minutes; changes are [time, state], oldest first. */
export function band(changes, now, minutes) {
  const begin = now - minutes * 60_000;
  const position = (time) => (WIDTH * (Math.max(begin, Math.min(now, time)) - begin)) / (now - begin);
  const parts = changes.map(([time, state], index) => {
    const from = position(Date.parse(time));
    const to = index + 1 < changes.length ? position(Date.parse(changes[index + 1][0])) : WIDTH;
    return svg("rect", { x: from.toFixed(2), y: 0, width: Math.max(to - from, 0).toFixed(2), height: 6, "data-state": state });
  });
  return svg(
    "svg",
    { class: "band", viewBox: `0 0 ${WIDTH} 6`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "ground", x: 0, y: 0, width: WIDTH, height: 6 }),
    ...parts,
  );
}
