//! What a real agent may use: the budgets of job, execution and project.

use sawmill::ids::JobId;
use sawmill::job::{OutcomeClass, Stream};
use serde_json::{Value, json};

use super::server::{COMPLETION_TOKENS, PROMPT_TOKENS, Turn};
use super::site::{CLAUDE, CODEX, LOOKS, MINISWE, OPENHANDS, Site, WORKS, Which, last};
use crate::delivery::host::until;

/// The task for an agent, of a project or a budget.
fn order(site: &Site, of: &Value) -> JobId {
    let mut spec = json!({
        "backend": "agent", "attempts": 3,
        "task": { "instruction": "Make the mean exact", "acceptance": ["there is a test"] },
        "gates": [{ "name": "unit", "command": "python3 -m unittest -q" }],
    });
    spec.as_object_mut().expect("an object").extend(of.as_object().expect("an object").clone());
    site.host.enqueue(&spec)
}

/// An agent that goes on and on is ended while it works, and keeps what it had.
async fn is_held_to(which: Which, budget: Value, turns: u64) {
    let begins = Turn::Runs("The mean is to be exact.", "sed -i 's|//|/|' calc.py");
    let site = Site::open(which, [LOOKS, begins, Turn::Loops("cat calc.py; sleep 1")]).await;
    let host = &site.host;
    let id = order(&site, &json!({ "repo": site.remote, "budget": budget }));
    let ended = host.ended(id).await;
    let outcome = ended.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Budget, "{which:?}: {outcome}");
    let attempts = host.attempts(id).await;
    let [attempt] = attempts.as_slice() else { panic!("{which:?}: {attempts:?}") };
    let told = attempt.outcome.clone().expect("it has ended");
    assert_eq!(told.class, OutcomeClass::Budget, "{which:?}: {told}");
    assert!(told.message.contains(&format!("the budget of job {id}: ")), "{which:?}: {told}");
    assert!(attempt.salvage.is_some(), "{which:?}: what it had is kept");
    let usage = attempt.usage.clone().expect("it is on record");
    assert!(usage.prompt_tokens >= turns * PROMPT_TOKENS, "{which:?}: {usage:?}");
    let asked = u64::try_from(site.server.requests().len()).expect("few");
    assert!((turns..turns + 6).contains(&asked), "{which:?}: it was asked {asked} times");
    let said = host.log(id, 1, Stream::System).await;
    assert!(said.contains(&format!("the budget of job {id}: ")), "{which:?}: {said}");
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_uses_more_than_its_budget_is_ended_while_it_works() {
    // Claude Code says of a message what it has read, and hardly what it has written.
    is_held_to(CLAUDE, json!({ "tokens": 400 }), 4).await;
    for which in [MINISWE, CODEX, OPENHANDS] {
        is_held_to(which, json!({ "tokens": 400 }), 4).await;
    }
    // It knows the price itself.
    is_held_to(CLAUDE, json!({ "cost_usd": 0.003 }), 4).await;
}

/// One that does half of the work in three turns, and one that does all of it: the third and the fourth find nothing left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_of_job_execution_or_project_that_is_used_up_asks_the_model_nothing_more() {
    const TURN: u64 = PROMPT_TOKENS + COMPLETION_TOKENS;
    let half = Turn::Runs("The mean is to be exact.", "sed -i 's|//|/|' calc.py");
    let turns = [LOOKS, half, last(CLAUDE), LOOKS, WORKS, last(CLAUDE)];
    let project = ("SAWMILL_PROJECTS__APP__BUDGET", "{ tokens = 380, per = \"all\" }");
    let site = Site::open_with(CLAUDE, turns, &[project]).await;
    let host = &site.host;

    // More than it says before its end, however long its turns take, and less than it says then.
    let own = order(&site, &json!({ "repo": site.remote, "budget": { "tokens": 350 } }));
    let outcome = host.ended(own).await.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Budget, "{}", outcome.message);
    let attempt = host.attempts(own).await.remove(0).outcome.expect("it has ended");
    assert!(attempt.message.contains("it is not revised, for the budget of job"), "{}", attempt.message);
    assert_eq!((host.attempts(own).await.len(), site.server.left()), (1, 3), "no round and no attempt more");

    let plan = json!({ "id": "plan", "budget": { "tokens": 380 } });
    let done = host.succeeded(order(&site, &json!({ "project": "app", "execution": plan }))).await;
    site.check_delivered(&done, 3).await;
    let asked = site.server.requests().len();
    let next = order(&site, &json!({ "repo": site.remote, "execution": plan }));
    let outcome = host.ended(next).await.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Budget, "{}", outcome.message);

    let held = order(&site, &json!({ "project": "app" }));
    until("it is held", async || host.job(held).await.held.is_some_and(|held| held.as_str() == "budget")).await;
    let told = host.sawmill(&["job", "explain", &held.to_string()]);
    let reason = told["reasons"].as_array().and_then(|all| all.iter().find(|one| one["kind"] == "budget")).expect("the budget");
    let spent = &reason["budget"]["spent"];
    let tokens = spent["prompt_tokens"].as_u64().zip(spent["completion_tokens"].as_u64()).map(|(read, written)| read + written);
    assert_eq!(tokens, Some(3 * TURN), "{told}");
    assert_eq!(site.server.requests().len(), asked, "neither of them asked the model");
    host.sawmill(&["job", "cancel", &held.to_string()]);
    site.close().await;
}
