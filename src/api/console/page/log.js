// An attempt's log, followed to its end. The one rule: it stays bounded, whatever a job prints.

import { get, path } from "./api.js";
import { h } from "./dom.js";
import { bytes } from "./format.js";

/** How much of what is there already is read at first, in bytes. */
const TAIL = 256 * 1024;
/** How many characters are shown at most; the oldest go. */
const SHOWN_MAX = 2_000_000;

// Colours and the like of a terminal (ECMA-48), which say nothing here.
const CONTROLS = /\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

/** Reads the pieces of one stream as text: a character may be cut between two of them. */
class Text {
  #decoder = new TextDecoder();

  of(piece) {
    const read = piece.encoding === "utf8"
      ? this.#decoder.decode() + piece.data
      : this.#decoder.decode(Uint8Array.from(atob(piece.data), (c) => c.charCodeAt(0)), { stream: true });
    return read.replace(CONTROLS, "").replace(/\r+\n/g, "\n").replace(/\r/g, "\n");
  }
}

/** Follows the log of an attempt in an element, until `signal`. */
export function follow(job, attempt, signal) {
  const lines = h("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const above = h("p", { class: "small faint" });
  const below = h("p", { class: "small faint" });
  const texts = { stdout: new Text(), stderr: new Text(), system: new Text() };
  let shown = 0;
  let source;

  const add = (piece) => {
    const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
    const text = texts[piece.stream].of(piece);
    lines.append(h("span", { class: piece.stream }, text));
    shown += text.length;
    while (shown > SHOWN_MAX && lines.childNodes.length > 1) {
      shown -= lines.firstChild.textContent.length;
      lines.firstChild.remove();
      above.textContent = "Only the latest part is shown here; sawmill logs has all of it.";
    }
    if (atEnd) lines.scrollTop = lines.scrollHeight;
  };

  const open = (from) => {
    source = new EventSource(`${path`/v1/jobs/${job}/logs`}?${new URLSearchParams({ attempt, from })}`);
    source.addEventListener("log", (event) => add(JSON.parse(event.data)));
    source.addEventListener("end", (event) => {
      source.close();
      const { log, total } = JSON.parse(event.data);
      below.textContent = `The end: ${bytes(total)}, ${verdict(log)}.`;
    });
    source.addEventListener("problem", (event) => {
      source.close();
      below.textContent = JSON.parse(event.data).detail;
    });
  };

  const begin = async () => {
    const { total } = await get(path`/v1/jobs/${job}/logs`, { attempt, max: 1 }, signal);
    const from = Math.max(0, total - TAIL);
    if (from > 0) {
      const all = () => {
        source?.close();
        lines.replaceChildren();
        above.replaceChildren();
        shown = 0;
        open(0);
      };
      above.replaceChildren(`The first ${bytes(from)} are left out. `, h("button", { onclick: all }, "From the beginning"));
    }
    if (!signal.aborted) open(from);
  };
  begin().catch((error) => {
    if (!signal.aborted) below.textContent = `The log cannot be read: ${error.message}`;
  });
  signal.addEventListener("abort", () => source?.close());
  return h("div", {}, above, lines, below);
}

function verdict(log) {
  if (!log) return "of which nothing is known";
  if (log.verdict === "complete") return "complete";
  if (log.verdict === "truncated") return `${bytes(log.bytes ?? 0)} were cut out of it`;
  return `with a gap: what is missing was never received`;
}
