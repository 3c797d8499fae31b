// What projects used of models, and of which budgets.

import { get } from "./api.js";
import { Region, h, table } from "./dom.js";
import { dollars, moment } from "./format.js";

const PERIODS = { day: "a day", month: "a month", all: "in all" };

export function usage() {
  const list = new Region((items) => table(
    ["Project", ["Attempts", "number"], ["Tokens read", "number"], ["Tokens written", "number"], ["Cost", "number"], "Of its budget"],
    items.map(rowOf), "No project has used anything, and none has a budget."));
  const element = h("div", {}, h("h1", {}, "Usage"), list.element);
  const look = async (signal) => list.show((await get("/v1/budget", {}, signal)).items);
  return { title: "Usage", element, look };
}

function rowOf({ name, per, budget, spent, again_at }) {
  const number = (value) => value.toLocaleString("en");
  const bars = [];
  if (budget.tokens !== undefined) bars.push(bar(spent.prompt_tokens + spent.completion_tokens, budget.tokens, `${number(budget.tokens)} tokens ${PERIODS[per]}`));
  if (budget.cost_usd !== undefined) bars.push(bar(spent.cost_usd, budget.cost_usd, `${dollars(budget.cost_usd)} ${PERIODS[per]}`));
  return [
    name, number(spent.attempts), number(spent.prompt_tokens), number(spent.completion_tokens), dollars(spent.cost_usd),
    bars.length > 0 ? [bars, again_at ? h("span", { class: "small faint" }, "begins anew ", moment(again_at)) : ""] : h("span", { class: "faint" }, "no budget"),
  ];
}

function bar(used, most, name) {
  const share = most > 0 ? Math.min(100, (100 * used) / most) : 100;
  const meter = h("meter", { min: 0, max: 100, value: share, "aria-label": name });
  return h("div", { class: share >= 100 ? "failed" : "" }, meter, ` ${share.toFixed(0)} % of ${name}`);
}
