//! Writing together what comes at once: many commits become one.
//!
//! The one rule: what comes while others are being written waits for them, and is then written with all that came meanwhile; what
//! comes alone waits for nobody. There is no timer.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Store;
use super::error::StoreError;

/// At most so many in one transaction.
pub(super) const MOST: usize = 64;

/// What waits to be written.
#[derive(Debug)]
pub(super) struct Together<P> {
    waiting: Mutex<Waiting<P>>,
}

#[derive(Debug)]
struct Waiting<P> {
    list: Vec<P>,
    /// Whether somebody writes.
    led: bool,
}

impl<P> Default for Together<P> {
    fn default() -> Self {
        Self { waiting: Mutex::new(Waiting { list: Vec::new(), led: false }) }
    }
}

impl<P: Send + 'static> Together<P> {
    /// Adds one. `choose` takes out of those that wait, in the order in which they came, what is to be written next, which must be at
    /// least one; `write` writes it, in a task of its own: no caller that is dropped or not polled leaves others waiting. Whoever is
    /// told of the result has a channel in its `P`; when a task that writes panics, all that wait are dropped.
    pub(super) fn add<W, F>(self: &Arc<Self>, one: P, choose: fn(&mut Vec<P>) -> Vec<P>, write: W)
    where
        W: Fn(Vec<P>) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let led = {
            let mut waiting = self.lock();
            waiting.list.push(one);
            std::mem::replace(&mut waiting.led, true)
        };
        if !led {
            let leader = Leader(self.clone());
            tokio::spawn(async move {
                // Others that come at this very moment come along.
                tokio::task::yield_now().await;
                while let Some(chosen) = leader.0.next(choose) {
                    write(chosen).await;
                }
            });
        }
    }

    /// Those to be written next; none when nobody waits, and nobody writes any more.
    fn next(&self, choose: fn(&mut Vec<P>) -> Vec<P>) -> Option<Vec<P>> {
        let mut waiting = self.lock();
        waiting.led = !waiting.list.is_empty();
        waiting.led.then(|| choose(&mut waiting.list))
    }
}

impl<P> Together<P> {
    fn lock(&self) -> MutexGuard<'_, Waiting<P>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who writes. When it goes before its time, the next one may write.
struct Leader<P>(Arc<Together<P>>);

impl<P> Drop for Leader<P> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        if std::thread::panicking() {
            waiting.list.clear();
            waiting.led = false;
        }
    }
}

/// What can be written together with others of its kind.
pub(super) trait Batched: Sync + Sized {
    /// What writing one comes to.
    type Done: Send;
    /// What they are called.
    const NAMES: &str;

    /// Writes them in one transaction, with an answer for each in their order; or writes nothing.
    fn write(store: &Store, all: &[Self])
    -> impl Future<Output = Result<Vec<Result<Self::Done, StoreError>>, StoreError>> + Send;
}

impl Store {
    /// Writes all in one transaction, and answers for each. Where that cannot be, each is written by itself, so that nobody fails for
    /// another's sake; but not where it may have happened.
    pub(super) async fn write_together<P: Batched>(&self, all: &[P]) -> Vec<Result<P::Done, StoreError>> {
        match P::write(self, all).await {
            Ok(answers) => answers,
            Err(error) if all.len() == 1 => vec![Err(error)],
            Err(error) if error.is_transient() => {
                let why = error.to_string();
                all.iter().map(|_| Err(self.interrupted(&why))).collect()
            }
            Err(error) => {
                tracing::warn!(%error, "could not write {} {} together; writing each by itself", all.len(), P::NAMES);
                let mut answers = Vec::new();
                for one in all {
                    answers.extend(match P::write(self, std::slice::from_ref(one)).await {
                        Ok(answers) => answers,
                        Err(error) => vec![Err(error)],
                    });
                }
                answers
            }
        }
    }

    /// The failure of a call whose fate is not known: as when the connection breaks.
    pub(super) fn interrupted(&self, why: &str) -> StoreError {
        StoreError::from_driver(self.label(), sqlx::Error::Io(io::Error::other(why.to_owned())))
    }
}

/// The first ones, as many as fit into one transaction.
pub(super) fn first<P>(waiting: &mut Vec<P>) -> Vec<P> {
    waiting.drain(..waiting.len().min(MOST)).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    type Number = (u32, oneshot::Sender<u32>);

    #[tokio::test]
    async fn what_comes_while_others_are_written_is_written_together() {
        let together = Arc::new(Together::<Number>::default());
        let (entered, mut entries) = mpsc::unbounded_channel();
        let write = move |chosen: Vec<Number>| {
            let (go, gone) = oneshot::channel::<()>();
            entered.send((chosen.len(), go)).expect("somebody looks");
            async move {
                gone.await.expect("let go");
                chosen.into_iter().for_each(|(number, answer)| answer.send(number * 2).expect("somebody waits"));
            }
        };
        let add = |number| {
            let (answer, answered) = oneshot::channel();
            together.add((number, answer), first, write.clone());
            answered
        };
        let one = add(1);
        let (count, go) = entries.recv().await.expect("written");
        let rest = [2, 3, 4].map(add);
        go.send(()).expect("waits");
        assert_eq!((count, one.await), (1, Ok(2)));
        let (count, go) = entries.recv().await.expect("written");
        assert_eq!(count, 3);
        go.send(()).expect("waits");
        for (answered, doubled) in rest.into_iter().zip([4, 6, 8]) {
            assert_eq!(answered.await, Ok(doubled));
        }
    }

    #[tokio::test]
    async fn after_a_panic_those_that_waited_hear_of_it_and_the_next_one_is_written() {
        let together = Arc::new(Together::<Number>::default());
        let add = |number| {
            let (answer, answered) = oneshot::channel();
            together.add((number, answer), first, |chosen: Vec<Number>| async move {
                for (number, answer) in chosen {
                    assert_ne!(number, 1, "as asked");
                    answer.send(number).expect("somebody waits");
                }
            });
            answered
        };
        assert!(add(1).await.is_err());
        let mut answered = add(2).await;
        while answered.is_err() {
            // The task that panicked may only be going.
            answered = add(2).await;
        }
        assert_eq!(answered, Ok(2));
    }
}
