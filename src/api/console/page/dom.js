// Elements from data. The one rule: data becomes text and attributes of known names, never markup.

/** An element with attributes, listeners (`onclick` and the like) and children: elements, texts, lists of them, or nothing. */
export function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false);
}

/**
 * A part of a view that is made anew when what it shows has changed, and left alone while somebody uses it: writes in it, has a form of
 * it open, has some of it selected, or holds the pointer down on it. What was open or had the focus has it again.
 */
export class Region {
  #shown = undefined;
  #pressed = false;
  #make;

  constructor(make, name = "div", attributes = undefined) {
    this.element = h(name, attributes);
    this.element.addEventListener("pointerdown", () => {
      this.#pressed = true;
      addEventListener("pointerup", () => setTimeout(() => (this.#pressed = false)), { once: true });
    });
    this.#make = make;
  }

  show(data) {
    const key = JSON.stringify(data) ?? "undefined";
    if (key === this.#shown || this.#isUsed()) return;
    const open = new Set(this.#details().filter((one) => one.open).map(nameOf));
    const focused = this.#stops().indexOf(document.activeElement);
    this.element.replaceChildren(...flat([this.#make(data)]));
    this.#shown = key;
    for (const one of this.#details()) one.open ||= open.has(nameOf(one));
    if (focused >= 0) this.#stops()[focused]?.focus();
  }

  #details() {
    return [...this.element.querySelectorAll("details:not(.act)")];
  }

  /** Where the focus can be. */
  #stops() {
    return [...this.element.querySelectorAll("a, button, summary")];
  }

  #isUsed() {
    const active = document.activeElement;
    const writes = active && ["INPUT", "TEXTAREA", "SELECT"].includes(active.tagName) && this.element.contains(active);
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && this.element.contains(selection.anchorNode);
    return this.#pressed || writes || selects || this.element.querySelector("details.act[open]") !== null;
  }
}

function nameOf(details) {
  return details.dataset.name ?? details.querySelector("summary")?.textContent;
}

/** A table; `columns` are names, or `[name, class]`. */
export function table(columns, rows, none) {
  if (rows.length === 0) return h("p", { class: "faint" }, none);
  const names = columns.map((column) => [column].flat());
  const head = h("tr", {}, names.map(([name, kind]) => h("th", { class: kind, scope: "col" }, name)));
  const body = rows.map((cells) => h("tr", {}, cells.map((cell, at) => h("td", { class: names[at][1] }, cell))));
  return h("table", {}, h("thead", {}, head), h("tbody", {}, body));
}

/** Names and values, without those that have none. */
export function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", {}, there.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
