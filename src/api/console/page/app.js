// The frame: which view is shown, and how often it looks again.

import { Silence } from "./api.js";
import { h } from "./dom.js";
import { tick } from "./format.js";
import { completions } from "./completions.js";
import { job } from "./job.js";
import { jobs } from "./jobs.js";
import { overview } from "./overview.js";
import { usage } from "./usage.js";
import { workers } from "./workers.js";

const LOOK_EVERY = 2_000;
const AFTER_FAILURE = 4_000;

const ROUTES = [
  [/^\/$/, overview, "#/"],
  [/^\/jobs$/, jobs, "#/jobs"],
  [/^\/jobs\/([^/]+)$/, job, "#/jobs"],
  [/^\/workers$/, workers, "#/workers"],
  [/^\/completions$/, completions, "#/completions"],
  [/^\/usage$/, usage, "#/usage"],
];

let leave = new AbortController();

/** Shows the view that the address names. A view is `{ title, element, look(signal) }`, where `look` reads and shows. */
function open() {
  leave.abort();
  leave = new AbortController();
  const [place, query] = (location.hash.slice(1) || "/").split("?", 2);
  const found = ROUTES.map(([pattern, view, tab]) => [pattern.exec(place), view, tab]).find(([match]) => match);
  for (const link of document.querySelectorAll("nav a")) {
    if (found && link.getAttribute("href") === found[2]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const main = document.getElementById("view");
  if (!found) {
    main.replaceChildren(h("p", {}, "There is no such view. ", h("a", { href: "#/" }, "The overview"), " is here."));
    return;
  }
  const [match, view] = found;
  const shown = view({ id: match[1] && decodeURIComponent(match[1]), query: new URLSearchParams(query), signal: leave.signal, act });
  refuse("");
  document.title = `${shown.title} · Sawmill`;
  main.replaceChildren(shown.element);
  watch(shown, leave.signal);
}

/** Looks again and again while the view is open and the page is seen. */
async function watch(view, signal) {
  while (!signal.aborted) {
    let wait = LOOK_EVERY;
    try {
      await view.look(signal);
      if (!signal.aborted) tell("");
    } catch (error) {
      if (signal.aborted) return;
      tell(error instanceof Silence ? "The server does not answer. What is shown may be old; it is asked again." : `${error.message}`);
      wait = AFTER_FAILURE;
    }
    await pause(wait, signal);
  }
}

/** Waits, and for a page that nobody sees until somebody does; not beyond the next act. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      if (document.hidden && !signal.aborted) return;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", done);
      document.removeEventListener("acted", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    document.addEventListener("visibilitychange", done);
    document.addEventListener("acted", done);
    signal.addEventListener("abort", done);
  });
}

function tell(text) {
  const notice = document.getElementById("notice");
  if (notice.textContent !== text) notice.textContent = text;
}

/** Says what was refused, until the next act or view: not beside the button, which may be gone with the next look. */
function refuse(text) {
  document.getElementById("refusal").textContent = text;
}

/** Does what a button asks for, once, and has the view look again. */
async function act(event, deed) {
  event.preventDefault();
  const place = event.target.closest("form, button");
  const button = place.tagName === "FORM" ? place.querySelector("button") : place;
  button.disabled = true;
  refuse("");
  try {
    await deed();
    place.closest("details.act")?.removeAttribute("open");
    if (place.contains(document.activeElement)) document.activeElement.blur();
  } catch (error) {
    // What was written stays.
    refuse(error.message);
  } finally {
    button.disabled = false;
    document.dispatchEvent(new Event("acted"));
  }
}

addEventListener("hashchange", open);
setInterval(tick, 1_000);
open();
