// Making elements, and keeping lists of them as they should be. Text stays text: nothing here takes HTML.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** Make an element: h("button", { class: "x", on: { click } }, "text", otherElement). */
export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** Make an element of an image. */
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

/** Set a text if it is another one, as what is set again is read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const kept = new WeakMap();

/** Have an element for each item, in order; one whose item is the same is left alone. */
export function sync(parent, items, keyOf, build) {
  const before = kept.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const same = JSON.stringify(item);
    const old = before.get(key);
    if (after.has(key)) continue;
    if (old?.same === same) {
      after.set(key, old);
      continue;
    }
    const element = build(item);
    if (old) takeOver(old.element, element);
    after.set(key, { element, same });
  }
  for (const [key, { element }] of before) if (after.get(key)?.element !== element) element.remove();
  kept.set(parent, after);
  let place = [...parent.children].find((child) => !child.matches("thead")) ?? null;
  for (const { element } of after.values()) {
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

/** What is open stays open, and what has the focus keeps it. */
function takeOver(old, element) {
  for (const open of old.querySelectorAll("details[open]")) {
    const same = element.querySelector(`details[data-part="${CSS.escape(open.dataset.part)}"]`);
    if (same) same.open = true;
  }
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  old.replaceWith(element);
  if (focused?.dataset.part) {
    const parts = [...element.querySelectorAll("[data-part]")];
    parts.find((part) => part.dataset.part === focused.dataset.part)?.focus();
  }
}

/** Say something to who does not see the page. */
export function announce(texts) {
  if (texts.length) $("announcer").textContent = texts.join(". ");
}

/** Show what went wrong with a section, and whether it is empty. */
export function mark(section, count, problem) {
  const said = section.querySelector(".problem");
  said.hidden = !problem;
  setText(said, problem ? `This could not be asked: ${problem}` : "");
  section.querySelector(".empty").hidden = count > 0 || Boolean(problem);
}
