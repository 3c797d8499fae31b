// One job: why it is where it is, what can be done, its attempts, its evidence, its log.

import { get, orNothing, path, post } from "./api.js";
import { Region, facts, h, table } from "./dom.js";
import { bytes, count, duration, moment, since, used } from "./format.js";
import { follow } from "./log.js";
import { state, title, workerKind } from "./parts.js";

export function job({ id, query, signal, act }) {
  const head = new Region(headOf);
  const why = new Region(whyOf);
  const deeds = new Region((data) => deedsOf(data, act));
  const delivered = new Region(deliveredOf);
  const attempts = new Region((data) => attemptsOf(id, data));
  const artifacts = new Region((list) => artifactsOf(id, list));
  const log = h("div");
  const asked = Number(query.get("attempt")) || undefined;
  let followed, leave = new AbortController();
  signal.addEventListener("abort", () => leave.abort());

  const shown = {
    title: "Job",
    element: h("div", {}, head.element, why.element, deeds.element, delivered.element, attempts.element, h("h2", {}, "Log"), log, artifacts.element),
  };
  shown.look = async (signal) => {
    const of = (part) => path`/v1/jobs/${id}` + part;
    const found = await orNothing(get(of(""), { forecast: true }, signal));
    if (!found) return shown.element.replaceChildren(h("p", {}, `There is no job ${id}; it may have been removed by retention.`));
    const [explained, tried, kept, entries, budgets] = await Promise.all([
      get(of("/explain"), {}, signal), get(of("/attempts"), {}, signal), get(of("/artifacts"), {}, signal),
      get("/v1/completions", { job: id, limit: 1 }, signal), get("/v1/budget", { job: id }, signal),
    ]);
    document.title = `${title(found)} · Sawmill`;
    head.show({ job: found, budgets: budgets.items, begun: tried.items.at(-1)?.started_at });
    why.show(explained);
    deeds.show({ id, state: found.state, held: found.held, cancel: found.cancel_requested_at, question: questionOf(explained) });
    delivered.show(entries.items[0]);
    attempts.show({ items: tried.items, shown: asked ?? found.attempt });
    artifacts.show(kept.items);
    const attempt = asked ?? found.attempt;
    if (attempt && attempt !== followed) {
      leave.abort();
      [followed, leave] = [attempt, new AbortController()];
      log.replaceChildren(follow(id, attempt, leave.signal));
    } else if (!attempt && log.childNodes.length === 0) {
      log.append(h("p", { class: "faint" }, "It has had no attempt."));
    }
  };
  return shown;
}

function headOf({ job, budgets, begun }) {
  const { spec, forecast, time_limit, runs_on } = job;
  const budget = budgets.filter(({ budget }) => budget.tokens !== undefined || budget.cost_usd !== undefined);
  const spent = (one) => {
    const most = [one.budget.tokens && `${one.budget.tokens.toLocaleString("en")} tokens`, one.budget.cost_usd && `$${one.budget.cost_usd}`];
    return h("div", {}, `${one.scope} ${one.name}: ${used(one.spent)} of ${most.filter(Boolean).join(" and ")}`);
  };
  const ahead = forecast && (forecast.unknown
    ? `not known: ${forecast.unknown}`
    : [forecast.expected_start ? moment(forecast.expected_start) : "", `, ${count(forecast.ahead, "job is", "jobs are")} before it${forecast.or_more ? ", or more" : ""}`]);
  return h("div", {},
    h("h1", {}, title(job)),
    h("div", { class: "panel" }, facts([
      ["State", [state(job.state), " ", job.finished_at && job.outcome ? h("span", { class: "said" }, job.outcome.message) : ""]],
      ["Id", h("code", {}, job.id)],
      ["Project", spec.project], ["Execution", [spec.execution?.id, spec.execution?.role].filter(Boolean).join(", ")],
      ["Backend", spec.backend], ["Repository", job.repo], ["Base", job.base], ["Branch", h("code", {}, job.branch)],
      ["Commit", job.commit && h("code", {}, job.commit)],
      ["Priority", spec.priority !== "normal" && spec.priority], ["Requires", spec.requires?.join(", ")],
      ["Enqueued", moment(job.created_at)],
      ["Expected to start", ahead],
      ["Took", job.started_at && job.finished_at && `${duration(job.finished_at - job.started_at)} from its first start to its end`],
      ["Runs", job.state === "running" && begun && ["for ", since(begun), ` on ${job.worker}, ${runs_on?.on === "container" ? `in a container of ${runs_on.image}` : "on the host"}`]],
      ["May take", time_limit && `${duration(time_limit.limit_ms)}: of ${time_limit.samples} attempts at ${time_limit.size} tasks like it ${time_limit.percent} % took at most ${duration(time_limit.took_ms)}`],
      ["Attempts", `${job.attempts_used} of ${job.attempts_max} used${job.resets ? `, and ${count(job.resets, "reset", "resets")}` : ""}`],
      ["Budget", budget.length > 0 && budget.map(spent)],
    ].map(([name, value]) => [name, value === false ? null : value]))),
    spec.task.instruction || spec.task.command ? h("details", {}, h("summary", {}, "What was asked"), h("pre", { class: "said panel" }, asked(spec.task))) : null,
  );
}

function asked({ instruction, command, acceptance }) {
  const line = Array.isArray(command) ? JSON.stringify(command) : command;
  return [instruction, line, ...(acceptance ?? []).map((one) => `- ${one}`)].filter(Boolean).join("\n");
}

function whyOf({ state: of, answer, reasons, workers, changes }) {
  if (!["queued", "running"].includes(of) && reasons.length === 0) return null;
  return h("div", {},
    h("h2", {}, of === "queued" ? "Why it does not run" : "Where it is"),
    h("div", { class: "panel" },
      h("p", { class: "said" }, `It ${answer}.`),
      reasons.length > 1 ? h("ul", {}, reasons.map(({ text }) => h("li", { class: "said" }, text))) : null,
      changes.length > 0 ? h("p", { class: "small" }, "What would change it: ", changes.map((change) => h("div", { class: "said" }, `- ${change}`))) : null,
      workers.length > 0 ? table(["Worker", ["State", "tight"], ["Free slots", "number"], "Why not there"],
        workers.map((one) => [one.worker, state(one.state, workerKind(one.state)), String(one.free_slots), whyNotThere(one)]), "") : null,
    ));
}

function whyNotThere({ answer, changes }) {
  return h("div", {}, answer, changes.map((change) => h("div", { class: "small" }, `What would change it: ${change}`)));
}

function questionOf({ reasons }) {
  return reasons.find((reason) => reason.kind === "question")?.question;
}

function deedsOf({ id, state: of, held, cancel, question }, act) {
  const to = (deed) => path`/v1/jobs/${id}` + `/${deed}`;
  const reason = () => h("input", { name: "reason", placeholder: "Why", "aria-label": "Why" });
  const form = (name, deed) => h("details", { class: "act" }, h("summary", {}, name),
    h("form", { class: "line", onsubmit: (event) => {
      const said = new FormData(event.target).get("reason").trim();
      return act(event, () => post(to(deed), said ? { reason: said } : {}));
    } }, reason(), h("button", {}, name)));
  const answer = (event) => {
    const text = new FormData(event.target).get("text");
    return act(event, () => post(to("answer"), { text }));
  };
  return h("div", {},
    question ? h("form", { class: "panel", onsubmit: answer },
      h("p", {}, h("b", {}, "It asks: "), h("span", { class: "said" }, question)),
      h("textarea", { name: "text", required: true, "aria-label": "The answer" }), h("button", {}, "Answer")) : null,
    h("div", { class: "actions" },
      (of === "queued" || (of === "running" && !cancel)) && form("Cancel", "cancel"),
      of === "running" && !cancel && form("Requeue", "requeue"),
      of === "queued" && held === "backoff" && h("button", { onclick: (event) => act(event, () => post(to("requeue"))) }, "Try at once"),
      ["failed", "cancelled"].includes(of) && h("button", { onclick: (event) => act(event, () => post(to("retry"))) }, "Retry"),
    ));
}

function deliveredOf(entry) {
  if (!entry) return null;
  const { diff } = entry;
  return h("div", {},
    h("h2", {}, "Delivered"),
    h("div", { class: "panel" },
      facts([
        ["Summary", entry.summary && h("span", { class: "said" }, entry.summary)],
        ["Changed", entry.commit && `+${diff.insertions} −${diff.deletions} in ${count(diff.files, "file", "files")}`],
        ["Used", used(entry.usage)],
        ["Completion", [state(entry.state), entry.consumer ? ` by ${entry.consumer}` : "", entry.last_error ? `, last given back: ${entry.last_error}` : ""]],
      ]),
      evidence(entry),
      diff.per_file.length > 0 ? h("details", {}, h("summary", {}, "Files"),
        table(["File", ["Added", "number"], ["Removed", "number"]], diff.per_file.map((file) => [h("code", {}, file.path), file.binary ? "binary" : `+${file.insertions}`, file.binary ? "" : `−${file.deletions}`]), "")) : null,
    ));
}

/** What gates, checks and critics saw. */
function evidence({ gates = [], findings = [], critiques = [] }) {
  const tests = (counts) => counts ? `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped` : "";
  const covered = (coverage) => coverage?.lines ? `${((100 * coverage.lines.covered) / Math.max(1, coverage.lines.total)).toFixed(2)} % of ${coverage.lines.total} lines` : "";
  return [
    gates.length > 0 ? table(["Gate", ["", "tight"], "Command", "Tests", ["Took", "tight"]], gates.map((gate) => [
      gate.name, state(gate.passed ? "passed" : "failed"), h("code", {}, gate.argv.join(" ")),
      [tests(gate.tests), covered(gate.coverage)].filter(Boolean).join("; "), duration(gate.duration_ms),
    ]), "") : null,
    findings.length > 0 ? h("ul", { class: "list" }, findings.map((one) => h("li", { class: one.response === "reject" ? "failed" : "paused" },
      `${one.rule}: `, one.path ? h("code", {}, one.path + (one.line ? `:${one.line}` : ""), " ") : "", one.message))) : null,
    critiques.length > 0 ? h("ul", { class: "list" }, critiques.map((one) => h("li", {},
      `Critic ${one.critic} (${one.model}): ${one.verdict}${one.score === undefined ? "" : `, ${one.score} of 100`}${one.partial ? ", of a part of the change only" : ""}`,
      one.reason ? `: ${one.reason}` : "", one.summary ? h("div", { class: "said" }, one.summary) : "",
      one.findings.map((remark) => h("div", { class: "said" }, `- ${remark.must_fix ? "must be fixed: " : ""}${remark.path ? `${remark.path}: ` : ""}${remark.message}`))))) : null,
  ];
}

function attemptsOf(id, { items, shown }) {
  if (items.length === 0) return null;
  return h("div", {}, h("h2", {}, "Attempts"), [...items].reverse().map((one) => h("div", { class: "panel" },
    h("div", {},
      h("a", { href: `#/jobs/${id}?attempt=${one.attempt}`, "aria-current": one.attempt === shown && "true" }, `Attempt ${one.attempt}`),
      ` on ${one.worker}, `, moment(one.started_at), " ",
      one.outcome ? [h("span", { class: one.outcome.class === "succeeded" ? "succeeded" : "failed" }, one.outcome.class.replaceAll("_", " ")), ": ", h("span", { class: "said" }, one.outcome.message)] : state("running")),
    h("div", { class: "stages small" }, one.stages.map((stage) => h("span", { class: !stage.ended_at ? "running" : stage.outcome === "succeeded" ? "faint" : "failed", title: stage.detail },
      `${stage.stage} `, stage.ended_at ? duration(stage.ended_at - stage.started_at) : since(stage.started_at)))),
    h("div", { class: "small faint" }, [
      one.ended_at && `took ${duration(one.ended_at - one.started_at)}`,
      one.resources.peak_memory_bytes && `at most ${bytes(one.resources.peak_memory_bytes)} of memory`,
      one.resources.cpu_ms && `${duration(one.resources.cpu_ms)} of processor time`,
      one.resources.exit_code ? `exit status ${one.resources.exit_code}` : one.resources.signal && `ended by signal ${one.resources.signal}`,
      used(one.usage), one.salvage && `what it left is in salvage ${one.salvage.slice(0, 10)}`,
    ].filter(Boolean).join(" · ")),
    (one.rejections ?? []).map((rejection, at) => h("details", { "data-name": `${one.attempt}-${at}` }, h("summary", {}, `Rejected, round ${at + 1}: ${rejection.message}`),
      evidence(rejection), rejection.output ? h("pre", { class: "said" }, rejection.output) : null)))));
}

function artifactsOf(id, list) {
  if (list.length === 0) return null;
  const link = (one) => path`/v1/jobs/${id}/artifacts/${one.name}` + `?attempt=${one.attempt}`;
  return h("div", {}, h("h2", {}, "Artifacts"), h("div", { class: "panel" },
    table([["Attempt", "tight"], "Name", ["", "tight"], ["Size", "number"]], list.map((one) => [
      String(one.attempt), one.kept ? h("a", { href: link(one), download: true }, one.name) : one.name,
      [state(one.state), one.reason ? ` ${one.reason}` : ""], one.kept ? bytes(one.kept.bytes) : "",
    ]), "")));
}
