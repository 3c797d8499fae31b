// An attempt's log, followed to its end. The one rule: it stays bounded, whatever a job prints.

import { get, path } from "./api.js";
import { h } from "./dom.js";
import { bytes } from "./format.js";

/** How much of what is there already is read at first, in bytes. */
const TAIL = 256 * 1024;
/** How many characters are shown at most; the oldest go. */
const SHOWN_MAX = 2_000_000;
/** How long until a stream that was refused is asked for again. */
const AGAIN_AFTER = 4_000;

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
  let [shown, at, begun, ended] = [0, 0, false, false];
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

  // A browser has few connections to one server for all of its pages: one that nobody sees has none.
  const open = () => {
    if (signal.aborted || !begun || ended || document.hidden) return;
    source?.close();
    source = new EventSource(`${path`/v1/jobs/${job}/logs`}?${new URLSearchParams({ attempt, from: at })}`);
    source.addEventListener("log", (event) => {
      at = Number(event.lastEventId.split(":").at(-1));
      add(JSON.parse(event.data));
    });
    source.addEventListener("end", (event) => {
      const { log, total } = JSON.parse(event.data);
      end(`The end: ${bytes(total)}, ${verdict(log)}.`);
    });
    source.addEventListener("problem", (event) => end(JSON.parse(event.data).detail));
    // The browser asks again by itself where the connection broke, and not where it was refused.
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(open, AGAIN_AFTER);
    });
  };

  const end = (text) => {
    ended = true;
    source.close();
    below.textContent = text;
  };

  const begin = async () => {
    const { total } = await get(path`/v1/jobs/${job}/logs`, { attempt, max: 1 }, signal);
    [at, begun] = [Math.max(0, total - TAIL), true];
    below.replaceChildren();
    const all = () => {
      lines.replaceChildren();
      above.replaceChildren();
      below.replaceChildren();
      [shown, at, ended] = [0, 0, false];
      open();
    };
    if (at > 0 && total <= SHOWN_MAX) {
      above.replaceChildren(`The first ${bytes(at)} are left out. `, h("button", { onclick: all }, "From the beginning"));
    } else if (at > 0) {
      above.textContent = `The first ${bytes(at)} are left out; sawmill logs has all of it.`;
    }
    open();
  };
  const tryToBegin = () => begin().catch((error) => {
    if (signal.aborted) return;
    below.textContent = `The log cannot be read: ${error.message}`;
    setTimeout(tryToBegin, AGAIN_AFTER);
  });
  tryToBegin();
  const seen = () => (document.hidden ? source?.close() : open());
  document.addEventListener("visibilitychange", seen, { signal });
  signal.addEventListener("abort", () => source?.close());
  return h("div", {}, above, lines, below);
}

function verdict(log) {
  if (!log) return "of which nothing is known";
  if (log.verdict === "complete") return "complete";
  if (log.verdict === "truncated") return `${bytes(log.bytes ?? 0)} were cut out of it`;
  return `with a gap: what is missing was never received`;
}
