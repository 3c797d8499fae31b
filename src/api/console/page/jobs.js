// Jobs, newest first, by state, project and execution.

import { get } from "./api.js";
import { Region, h } from "./dom.js";
import { choice, filters, jobTable } from "./parts.js";

const HOLDS = ["scheduled", "backoff", "dependency", "key", "project", "budget", "answer"];
const LISTED = 50;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];

export function jobs({ query }) {
  const asked = Object.fromEntries(["state", "held", "project", "execution", "before"].map((name) => [name, query.get(name) ?? ""]));
  const list = new Region((page) => jobTable(page.items, "There is no such job."));
  const further = new Region((next) => next && h("p", {}, h("a", { href: `#/jobs?${new URLSearchParams({ ...asked, before: next })}` }, "Older ones")));
  const text = (name) => h("label", {}, `${name} `, h("input", { name: name.toLowerCase(), value: asked[name.toLowerCase()] }));
  const element = h("div", {},
    h("h1", {}, "Jobs"),
    filters("#/jobs", [
      choice("State", "state", STATES, asked.state, "any"), choice("Waits for", "held", HOLDS, asked.held, "anything"),
      text("Project"), text("Execution"), h("button", {}, "Show"),
    ]),
    list.element, further.element,
  );
  const look = async (signal) => {
    const page = await get("/v1/jobs", { limit: LISTED, ...asked }, signal);
    list.show(page);
    further.show(page.next);
  };
  return { title: "Jobs", element, look };
}
