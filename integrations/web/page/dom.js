// Creating and updating elements. Text is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** Create an element: h("button", { class: "x", on: { click } }, "text", otherElement). */
export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** Create an SVG element. */
export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "data") {
      Object.assign(element.dataset, value);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set a text if it has changed; screen readers would read an unchanged text again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const rendered = new WeakMap();

/** Show an element for each item, in order; elements of unchanged items stay. */
export function sync(parent, items, keyOf, build) {
  const before = rendered.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const json = JSON.stringify(item);
    const old = before.get(key);
    if (after.has(key)) continue;
    if (old?.json === json) {
      after.set(key, old);
      continue;
    }
    const element = build(item);
    if (old) replace(old.element, element);
    after.set(key, { element, json });
  }
  for (const [key, { element }] of before) if (after.get(key)?.element !== element) element.remove();
  rendered.set(parent, after);
  let next = [...parent.children].find((child) => !child.matches("thead")) ?? null;
  for (const { element } of after.values()) {
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
}

/** Replace an element, keeping open details and the focus. */
function replace(old, element) {
  for (const open of old.querySelectorAll("details[open]")) {
    const details = element.querySelector(`details[data-part="${CSS.escape(open.dataset.part)}"]`);
    if (details) details.open = true;
  }
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  old.replaceWith(element);
  if (focused?.dataset.part) {
    const parts = [...element.querySelectorAll("[data-part]")];
    parts.find((part) => part.dataset.part === focused.dataset.part)?.focus();
  }
}

/** Announce texts to screen readers. */
export function announce(texts) {
  if (texts.length) $("announcer").textContent = texts.join(". ");
}

/** Show the problem of a section, and whether the section is empty. */
export function showStatus(section, count, problem) {
  const message = section.querySelector(".problem");
  message.hidden = !problem;
  setText(message, problem ? `Not available: ${problem}` : "");
  section.querySelector(".empty").hidden = count > 0 || Boolean(problem);
}
