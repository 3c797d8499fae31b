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
 * A part of a view that is made anew when what it shows has changed, and left alone otherwise and while somebody writes in it:
 * what is selected, open or half written stays.
 */
export class Region {
  #shown = undefined;
  #make;

  constructor(make, name = "div", attributes = undefined) {
    this.element = h(name, attributes);
    this.#make = make;
  }

  show(data) {
    const key = JSON.stringify(data) ?? "undefined";
    if (key === this.#shown || this.#isWrittenIn()) return;
    this.#shown = key;
    const open = new Set(this.#details().filter((one) => one.open).map(nameOf));
    this.element.replaceChildren(...flat([this.#make(data)]));
    for (const one of this.#details()) one.open ||= open.has(nameOf(one));
  }

  #details() {
    return [...this.element.querySelectorAll("details:not(.act)")];
  }

  #isWrittenIn() {
    const active = document.activeElement;
    const writes = active && ["INPUT", "TEXTAREA", "SELECT"].includes(active.tagName);
    const open = this.element.querySelector("details.act[open]");
    return (writes && this.element.contains(active)) || open !== null;
  }
}

function nameOf(details) {
  return details.querySelector("summary")?.textContent;
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
