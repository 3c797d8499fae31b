// What was delivered, and where it is on its way to who integrates it.

import { get, path, post } from "./api.js";
import { Region, h, table } from "./dom.js";
import { count, firstLine, moment } from "./format.js";
import { choice, filters, jobLink, state } from "./parts.js";

const LISTED = 30;
const STATES = ["pending", "claimed", "acked", "dead"];

export function completions({ query, act }) {
  const asked = { state: query.get("state") ?? "", before: query.get("before") ?? "" };
  const list = new Region((items) => table(
    [["State", "tight"], "Summary", "Project", "Branch", "What of it", ["Written", "tight"]], items.map((entry) => rowOf(entry, act)), "There is none."));
  const further = new Region((next) => next && h("p", {}, h("a", { href: `#/completions?${new URLSearchParams({ ...asked, before: next })}` }, "Older ones")));
  const element = h("div", {},
    h("h1", {}, "Completions"),
    filters("#/completions", [choice("State", "state", STATES, asked.state, "any"), h("button", {}, "Show")]),
    list.element, further.element,
  );
  const look = async (signal) => {
    const page = await get("/v1/completions", { limit: LISTED, ...asked }, signal);
    list.show(page.items);
    further.show(page.next);
  };
  return { title: "Completions", element, look };
}

function rowOf(entry, act) {
  const again = (event) => act(event, () => post(path`/v1/completions/${entry.id}/requeue`));
  return [
    state(entry.state), jobLink(entry.job, entry.summary ? firstLine(entry.summary) : entry.job), entry.project ?? "",
    entry.branch ? h("code", {}, entry.branch) : "no change", news(entry),
    [moment(entry.created_at), entry.state === "dead" ? [" ", h("button", { onclick: again }, "Requeue")] : ""],
  ];
}

function news({ state: of, consumer, lease_until, ready_at, deliveries, last_error }) {
  const back = last_error ? `, last given back: ${firstLine(last_error, 160)}` : "";
  const tries = deliveries > 0 ? `handed out ${count(deliveries, "time", "times")}` : "not handed out yet";
  if (of === "claimed") return [`held by ${consumer}, its lease ends `, moment(lease_until), back];
  if (of === "pending" && ready_at === null) return `behind an earlier one of its branch, ${tries}${back}`;
  if (of === "acked") return `taken by ${consumer}`;
  return tries + back;
}
