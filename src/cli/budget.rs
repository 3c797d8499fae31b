//! `sawmill budget`: what was used of models, and how much may be.

use super::args::BudgetArgs;
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::table::Cell;
use crate::api::wire::Page;
use crate::job::budget::BudgetUse;

/// Shows budgets.
pub(super) async fn run(client: &Client, out: &Output, args: BudgetArgs) -> Result<Exit, CliError> {
    let query = match (args.job, args.execution) {
        (Some(job), _) => format!("?job={job}"),
        (None, Some(execution)) => format!("?execution={}", escape(&execution)),
        (None, None) => String::new(),
    };
    let page: Page<BudgetUse> = client.get(&format!("/v1/budget{query}")).await?;
    if out.is_json() {
        out.document(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("no project has a budget, or has used anything");
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<Cell>> = page.items.iter().map(row).collect();
    out.rows(&["OF", "NAME", "PER", "TOKENS", "COST", "ATTEMPTS", "STATE"], &rows)?;
    Ok(Exit::Done)
}

fn row(used: &BudgetUse) -> Vec<Cell> {
    let of = |spent: String, most: Option<String>| most.map_or_else(|| spent.clone(), |most| format!("{spent} of {most}"));
    let state = match used.again_at {
        _ if !used.is_spent() => Cell::maybe(None::<String>),
        Some(at) => Cell::new(format!("used up until {at}")),
        None => Cell::new("used up"),
    };
    vec![
        Cell::new(used.scope),
        Cell::new(&used.name),
        Cell::new(used.per.as_str()),
        Cell::new(of(used.spent.tokens().to_string(), used.budget.tokens.map(|most| most.to_string()))),
        Cell::new(of(used.spent.cost_usd.to_string(), used.budget.cost_usd.map(|most| most.to_string()))),
        Cell::new(used.spent.attempts),
        state,
    ]
}
