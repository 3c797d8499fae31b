// The workers: what they are, what is in their slots, what keeps them from claiming.

import { get, path, post } from "./api.js";
import { Region, facts, h } from "./dom.js";
import { bytes, moment, since } from "./format.js";
import { jobLink, pauseLine, state, workerKind } from "./parts.js";

export function workers({ act }) {
  const none = new Region((count) => count === 0 && h("p", { class: "faint" }, "No worker has ever reported."));
  const element = h("div", {}, h("h1", {}, "Workers"), none.element);
  // One for each: an open form of one keeps no other from being shown as it is.
  const regions = new Map();
  const look = async (signal) => {
    const { items } = await get("/v1/workers", {}, signal);
    none.show(items.length);
    for (const worker of items) {
      if (!regions.has(worker.id)) {
        regions.set(worker.id, new Region((worker) => workerOf(worker, act)));
        element.append(regions.get(worker.id).element);
      }
      regions.get(worker.id).show(worker);
    }
  };
  return { title: "Workers", element, look };
}

function workerOf(worker, act) {
  const { id, host, version, labels, backends, slots, pressure, claiming, drain, pauses } = worker;
  const to = (deed) => path`/v1/workers/${id}` + `/${deed}`;
  const drains = (event) => {
    const reason = new FormData(event.target).get("reason").trim();
    return act(event, () => post(to("drain"), { by: "the console", reason }));
  };
  return h("section", { class: "panel", "aria-label": `Worker ${id}` },
    h("div", {}, h("b", {}, id), " ", state(worker.state, workerKind(worker.state)), h("span", { class: "faint" }, ` on ${host}, ${version}, reported `), moment(worker.seen_at)),
    drain ? h("p", { class: "draining" }, `Drained by ${drain.asked_by}${drain.reason ? ` (${drain.reason})` : ""}, `, moment(drain.asked_at)) : null,
    pressure.shortage ? h("p", { class: "paused" }, `Takes no jobs: ${pressure.shortage.reason}, since `, moment(pressure.shortage.since)) : null,
    claiming.failure ? h("p", { class: "failed" }, `Cannot claim: ${claiming.failure.reason}, since `, moment(claiming.failure.since)) : null,
    claiming.no_engine ? h("p", { class: claiming.no_engine.leaves_all ? "failed" : "faint" }, `No containers: ${claiming.no_engine.reason}`) : null,
    pauses.map((pause) => h("p", { class: "paused" }, pauseLine(pause, act))),
    h("ul", { class: "list" }, slots.map((slot) => h("li", {}, h("span", { class: "faint" }, `Slot ${slot.number} `), state(slot.state), " ", content(slot)))),
    facts([
      ["Labels", labels.join(", ")],
      ["Backends", backends.map(({ name, capabilities }) => name + (capabilities.length > 0 ? ` (${capabilities.join(", ")})` : "")).join(", ")],
      ["Memory", pressure.memory_available_bytes != null && `${bytes(pressure.memory_available_bytes)} to be had${below(pressure.limits.memory_available_bytes)}`],
      ["Disk", pressure.disk_free_bytes != null && `${bytes(pressure.disk_free_bytes)} free${below(pressure.limits.disk_free_bytes && pressure.limits.disk_free_bytes + pressure.limits.disk_running_bytes + pressure.limits.disk_job_bytes)}`],
      ["Looked at the queue", claiming.asked_at && moment(claiming.asked_at)],
      ["Claimed", claiming.claimed_at && moment(claiming.claimed_at)],
    ].map(([name, value]) => [name, value === false ? null : value])),
    h("div", { class: "actions" },
      drain
        ? h("button", { onclick: (event) => act(event, () => post(to("resume"))) }, "Resume")
        : h("details", { class: "act" }, h("summary", {}, "Drain"), h("form", { class: "line", onsubmit: drains }, h("input", { name: "reason", placeholder: "Why", "aria-label": "Why" }), h("button", {}, "Drain")))),
  );
}

function below(limit) {
  return limit > 0 ? `; claims stop below ${bytes(limit)}` : "";
}

function content(slot) {
  if (slot.state === "busy") return [jobLink(slot.job), `, attempt ${slot.attempt}${slot.stage ? `, ${slot.stage}` : ""}, for `, since(slot.since)];
  if (slot.state === "broken") return [slot.reason, ", since ", moment(slot.since)];
  return "";
}
