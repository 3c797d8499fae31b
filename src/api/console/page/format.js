// How things are written for people.

import { h } from "./dom.js";

const UNITS = [[86_400, "d"], [3_600, "h"], [60, "m"], [1, "s"]];

/** A length of time in milliseconds, in its two largest units. */
export function duration(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  let seconds = Math.floor(ms / 1_000);
  const parts = [];
  for (const [size, unit] of UNITS) {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    if (count > 0 || parts.length > 0) parts.push(count > 0 ? `${count}${unit}` : "");
    if (parts.length === 2) break;
  }
  return parts.filter(Boolean).join(" ");
}

function relative(at) {
  const apart = at - Date.now();
  if (Math.abs(apart) < 1_000) return "now";
  return apart > 0 ? `in ${duration(apart)}` : `${duration(-apart)} ago`;
}

/** A moment as how far it is away, which goes on by itself; the moment itself is its title. */
export function moment(at) {
  const date = new Date(at);
  // A number that a planner took for a time, and that is none.
  if (Number.isNaN(date.getTime())) return String(at);
  return h("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-at": String(at) }, relative(at));
}

/** How long it has been since, which goes on by itself. */
export function since(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return String(at);
  return h("time", { datetime: date.toISOString(), title: `since ${date.toLocaleString()}`, "data-since": String(at) }, duration(Date.now() - at));
}

/** Has all moments that are shown go on. */
export function tick() {
  for (const time of document.querySelectorAll("time[data-at]")) time.textContent = relative(Number(time.dataset.at));
  for (const time of document.querySelectorAll("time[data-since]")) time.textContent = duration(Date.now() - Number(time.dataset.since));
}

export function bytes(count) {
  let [value, unit] = [count, "B"];
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) break;
    [value, unit] = [value / 1024, next];
  }
  return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
}

export function dollars(cost) {
  return cost > 0 && cost < 0.01 ? `$${cost}` : `$${cost.toFixed(2)}`;
}

export function count(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** What was used of models. */
export function used(usage) {
  if (!usage) return null;
  const tokens = `${usage.prompt_tokens.toLocaleString("en")} tokens read, ${usage.completion_tokens.toLocaleString("en")} written`;
  const cost = usage.cost_usd > 0 ? `, ${dollars(usage.cost_usd)}` : "";
  return tokens + cost + (usage.model ? ` (${usage.model})` : "");
}

/** The first line of a text, cut. */
export function firstLine(text, longest = 90) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > longest ? `${line.slice(0, longest - 1)}…` : line;
}
