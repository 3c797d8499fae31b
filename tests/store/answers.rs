//! Questions that attempts ask, and their answers.

use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::job::explain::Cause;
use sawmill::job::{Answer, Hold, JobState, Outcome, OutcomeClass};
use sawmill::store::{Expired, Finish, StoreError};

use super::{Queue, finish, on_both};

/// Has the next job ask something.
async fn ask(queue: &Queue, question: &str) -> sawmill::job::Job {
    let claimed = queue.claim("w").await;
    let end = Finish { outcome: Outcome::new(OutcomeClass::Clarification, question), ..finish(OutcomeClass::Released) };
    queue.store.finish(&claimed.claim, end).await.expect("finished")
}

on_both! {
    async fn who_asks_waits_for_the_answer_and_is_charged_nothing(queue) {
        let id = queue.enqueue().await.id;
        let asks = ask(queue, "Which one?").await;
        assert_eq!((asks.state, asks.held, asks.attempts_used, asks.resets), (JobState::Queued, Some(Hold::Answer), 0, 0));
        assert_eq!(asks.outcome, Some(Outcome::new(OutcomeClass::Clarification, "Which one?")));
        assert!(asks.ready_at.since(queue.store.now()) > Duration::from_secs(3000), "it has an hour");
        assert!(queue.nothing_to_claim().await);
        assert_eq!(queue.store.promote_once(10).await.expect("done"), 0);
        assert_eq!(queue.store.expire_once(10).await.expect("done"), []);
        let told = queue.store.explain(id).await.expect("answered");
        let Cause::Question { question, attempt, .. } = &told.reasons[0].cause else { panic!("{told:?}") };
        assert_eq!((question.as_str(), attempt.map(|attempt| attempt.0)), ("Which one?", Some(1)));
        assert_eq!(told.changes[0], format!("sawmill job answer {id} TEXT"));

        let answered = queue.store.answer_job(id, "The left one", "op").await.expect("answered");
        assert_eq!((answered.state, answered.held), (JobState::Queued, None));
        assert!(matches!(queue.store.answer_job(id, "No, the right one", "op").await, Err(StoreError::NotAsking { .. })));
        ask(queue, "How far?").await;
        queue.store.answer_job(id, "To the end", "op").await.expect("answered");
        let answer = |question: &str, answer: &str| Answer { question: question.to_owned(), answer: answer.to_owned() };
        let expected = [answer("Which one?", "The left one"), answer("How far?", "To the end")];
        assert_eq!(queue.store.answers(id).await.expect("there"), expected);
        assert_eq!(queue.claim("w").await.claim.attempt.0, 3);
        assert!(matches!(queue.store.answer_job(id, "x", "op").await, Err(StoreError::NotAsking { .. })));
        assert!(matches!(queue.store.answer_job(JobId::generate(), "x", "op").await, Err(StoreError::NotFound { .. })));
    }

    async fn a_question_that_nobody_answers_in_time_fails_its_job_and_those_that_wait_for_it(queue) {
        let id = queue.enqueue().await.id;
        let after = queue.enqueue_as(|new| new.spec.after = vec![id]).await.id;
        ask(queue, "Which one?").await;
        queue.place.tamper("UPDATE jobs SET ready_at = 1 WHERE held = 'answer'").await;
        assert_eq!(queue.store.expire_once(10).await.expect("done"), [Expired::Question { job: id }]);
        let failed = queue.store.job(id).await.expect("there");
        let outcome = failed.outcome.expect("an outcome");
        assert_eq!((failed.state, outcome.class), (JobState::Failed, OutcomeClass::Clarification));
        assert_eq!(outcome.message, "nobody answered within 1h: Which one?");
        assert_eq!(queue.store.job(after).await.expect("there").state, JobState::Cancelled);
        assert!(matches!(queue.store.answer_job(id, "too late", "op").await, Err(StoreError::NotAsking { .. })));
    }

    async fn a_job_that_asks_can_be_cancelled(queue) {
        let id = queue.enqueue().await.id;
        ask(queue, "Which one?").await;
        queue.store.cancel(id, "never mind").await.expect("cancelled");
        assert_eq!(queue.store.job(id).await.expect("there").state, JobState::Cancelled);
    }
}
