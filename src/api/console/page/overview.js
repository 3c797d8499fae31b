// What needs a person, what runs, what waits.

import { get } from "./api.js";
import { Region, h } from "./dom.js";
import { count, dollars, moment } from "./format.js";
import { jobLink, jobTable, pauseLine, title } from "./parts.js";

const COUNT_EVERY = 10_000;
const LISTED = 20;

export function overview({ act }) {
  const tiles = new Region(tilesOf);
  const needs = new Region((data) => needsOf(data, act));
  const running = new Region((jobs) => jobTable(jobs, "Nothing runs."));
  const waiting = new Region((jobs) => jobTable(jobs, "Nothing waits."));
  let counts, budgets, counted = 0;
  const element = h("div", {},
    tiles.element,
    h("h2", {}, "Needs somebody"), needs.element,
    h("h2", {}, "Runs"), running.element,
    h("h2", {}, "Waits, newest first"), waiting.element,
  );
  const look = async (signal) => {
    const listed = (parameters) => get("/v1/jobs", { limit: LISTED, ...parameters }, signal);
    const [workers, pauses, questions, runs, waits] = await Promise.all([
      get("/v1/workers", {}, signal), get("/v1/pauses", {}, signal), listed({ held: "answer" }),
      listed({ state: "running" }), listed({ state: "queued" }),
    ]);
    if (Date.now() - counted >= COUNT_EVERY) {
      [counts, budgets] = await Promise.all([get("/v1/counts", {}, signal), get("/v1/budget", {}, signal)]);
      counted = Date.now();
    }
    tiles.show({ counts, workers: workers.items.map(({ state, slots }) => ({ state, slots })) });
    needs.show({
      workers: workers.items.map(troubles).filter(({ lines }) => lines.length > 0), pauses: pauses.items, questions: questions.items,
      more: questions.next !== undefined, budgets: budgets.items.filter(isSpent), dead: counts.completions.dead,
    });
    running.show(runs.items);
    waiting.show(waits.items);
  };
  return { title: "Overview", element, look };
}

function tilesOf({ counts, workers }) {
  const tile = (href, number, name, kind) =>
    h("a", { class: "tile", href }, h("b", { class: number > 0 ? kind : "faint" }, number.toLocaleString("en")), name);
  const there = workers.filter(({ state }) => !["offline", "stopped"].includes(state));
  const slots = there.flatMap((worker) => worker.slots);
  const free = slots.filter((slot) => slot.state === "free").length;
  return h("div", { class: "tiles" },
    tile("#/jobs?state=queued", counts.jobs.queued, "queued"),
    tile("#/jobs?state=running", counts.jobs.running, "running", "running"),
    tile("#/jobs?state=succeeded", counts.jobs.succeeded, "succeeded", "succeeded"),
    tile("#/jobs?state=failed", counts.jobs.failed, "failed", "failed"),
    tile("#/completions?state=pending", counts.completions.pending, "completions pending"),
    h("a", { class: "tile", href: "#/workers" }, h("b", {}, `${free} / ${slots.length}`), `slots free of ${count(there.length, "worker", "workers")}`),
  );
}

function isSpent({ budget, spent }) {
  const tokens = spent.prompt_tokens + spent.completion_tokens;
  return (budget.tokens !== undefined && tokens >= budget.tokens) || (budget.cost_usd !== undefined && spent.cost_usd >= budget.cost_usd);
}

/** What is wrong with a worker, in lines of `[text, moment]`. */
function troubles({ id, host, state, seen_at, pressure, claiming, slots, drain }) {
  const lines = [];
  if (state === "offline") lines.push(["has not reported since", seen_at]);
  if (state === "stopped" || state === "offline") return { id, host, lines };
  if (pressure.shortage) lines.push([`takes no jobs: ${pressure.shortage.reason}, since`, pressure.shortage.since]);
  if (claiming.failure) lines.push([`cannot claim: ${claiming.failure.reason}, since`, claiming.failure.since]);
  if (claiming.no_engine?.leaves_all) lines.push([`has no containers: ${claiming.no_engine.reason}, since`, claiming.no_engine.since]);
  for (const slot of slots.filter((slot) => slot.state === "broken")) {
    lines.push([`has a broken slot, ${slot.number}: ${slot.reason}, since`, slot.since]);
  }
  if (drain) lines.push([`drains, as ${drain.asked_by} asked${drain.reason ? ` (${drain.reason})` : ""}`, drain.asked_at]);
  return { id, host, lines };
}

function needsOf({ workers, pauses, questions, more, budgets, dead }, act) {
  const lines = [
    questions.map((job) => h("li", {}, jobLink(job.id, title(job)), " asks a question and fails unless it is answered, ", moment(job.ready_at))),
    more ? h("li", {}, h("a", { href: "#/jobs?held=answer" }, "Older jobs"), " ask questions, too") : [],
    pauses.map((pause) => h("li", {}, pauseLine(pause, act))),
    workers.flatMap(({ id, host, lines }) => lines.map(([text, at]) => h("li", {}, h("a", { href: "#/workers" }, `Worker ${id}`), ` on ${host} ${text} `, moment(at)))),
    budgets.map((one) => h("li", {}, h("a", { href: "#/usage" }, `The budget of project ${one.name}`), " is used up ", `(${dollars(one.spent.cost_usd)})`, one.again_at ? [", the next one begins ", moment(one.again_at)] : "")),
    dead > 0 ? h("li", {}, h("a", { href: "#/completions?state=dead" }, `${count(dead, "completion is", "completions are")} set aside`), " and handed out no more") : [],
  ].flat();
  return lines.length > 0 ? h("ul", { class: "list panel" }, lines) : h("p", { class: "faint" }, "Nothing.");
}
