// What several views show: states, jobs in a line, what paused a credential.

import { path, post } from "./api.js";
import { h, table } from "./dom.js";
import { firstLine, moment } from "./format.js";

export function state(word, kind = word) {
  return h("span", { class: `state ${kind}` }, word);
}

/** How the state of a worker is shown: that it runs is good news, and not that it is busy. */
export function workerKind(word) {
  return word === "running" ? "running-worker" : word;
}

/** What a job is for, in a line. */
export function title(job) {
  const { instruction, command } = job.spec.task;
  const line = instruction ?? (Array.isArray(command) ? command.join(" ") : command) ?? job.branch;
  return firstLine(line) || job.branch;
}

export function jobLink(id, text = id) {
  return h("a", { href: `#/jobs/${encodeURIComponent(id)}`, title: id }, text);
}

/** What there is to say of a job in a line: how it ended, what it waits for, who has it. */
function news(job) {
  if (job.state === "running") {
    const asked = job.cancel_requested_at ? ", its end is asked for" : job.requeue_requested_at ? ", it is asked back" : "";
    return [`on ${job.worker}, attempt ${job.attempt}`, asked];
  }
  if (job.state === "queued") {
    const holds = {
      answer: "waits for the answer to a question", dependency: "waits for another job", key: "its key is at its limit",
      project: "its project is at its limit", budget: "its budget is used up",
    };
    if (job.held === "scheduled" || job.held === "backoff") return [job.held === "backoff" ? "is tried again " : "starts ", moment(job.ready_at)];
    const requires = job.spec.requires?.length > 0 ? `, of a worker with ${job.spec.requires.join(", ")}` : "";
    return holds[job.held] ?? `waits for its turn${requires}`;
  }
  return job.outcome ? firstLine(job.outcome.message, 160) : "";
}

/** When a job ended, first began, or was enqueued. */
function when(job) {
  if (job.finished_at) return moment(job.finished_at);
  return moment(job.state === "running" ? job.started_at : job.created_at);
}

export function jobTable(jobs, none) {
  const rows = jobs.map((job) => [
    state(job.state), jobLink(job.id, title(job)), job.spec.project ?? "", job.spec.backend ?? "", news(job), when(job),
  ]);
  return table([["State", "tight"], "Job", "Project", "Backend", "What of it", ["When", "tight"]], rows, none);
}

/** A credential that is used up for now, with a way to end that. */
export function pauseLine(pause, act) {
  const lift = (event) => act(event, () => post(path`/v1/pauses/${pause.credential}/lift`));
  return [
    h("b", {}, `Credential ${pause.credential} is paused`), " and starts again ", moment(pause.until),
    pause.reset_known ? " (its provider says so)" : ` (a guess, time ${pause.times} in a row)`,
    ": ", firstLine(pause.reason, 240), " ", h("button", { onclick: lift }, "Lift"),
  ];
}

/** A choice of one of these words, or of none, for a parameter of the address. */
export function choice(label, name, words, chosen, any) {
  const options = [h("option", { value: "" }, any), words.map((word) => h("option", { value: word, selected: word === chosen }, word))];
  return h("label", {}, `${label} `, h("select", { name }, options));
}

/** A form that puts what is chosen into the address. */
export function filters(place, fields) {
  const submit = (event) => {
    event.preventDefault();
    const chosen = [...new FormData(event.currentTarget)].filter(([, value]) => value !== "");
    const query = new URLSearchParams(chosen).toString();
    location.hash = query ? `${place}?${query}` : place;
  };
  return h("form", { class: "line", onsubmit: submit, onchange: (event) => event.target.tagName === "SELECT" && event.currentTarget.requestSubmit() }, fields);
}
