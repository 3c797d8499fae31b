//! The worker's loop, driven by apalis over our own stream of claims. Only this file names apalis.
//!
//! apalis polls the stream, runs the handler for each item and drains at the end. Its bundled storages are not used: leases,
//! fencing, retries and states are the store's.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::error::WorkerError as ApalisError;
use apalis_core::task::Task;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc;
use tower::layer::util::Identity;

use super::claims::{Assigned, give_back};
use crate::ids::WorkerId;
use crate::store::Store;

/// Runs `handle` for every claim until the stream of claims ends and every handler with it. A claim that is still in the
/// stream when the worker closes is given back.
pub(super) async fn drive<F, Fut>(
    worker: &WorkerId,
    store: Store,
    claims: mpsc::Receiver<Assigned>,
    handle: F,
) -> Result<(), ApalisError>
where
    F: FnMut(Assigned) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Infallible>> + Send + 'static,
{
    let queue = Queue { store, claims, closing: None };
    WorkerBuilder::new(worker.as_str()).backend(queue).build(handle).run().await
}

struct Queue {
    store: Store,
    claims: mpsc::Receiver<Assigned>,
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Backend for Queue {
    type Task = Task<Assigned>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.claims.poll_recv(cx).map(|claim| claim.map(|assigned| Ok(Task::new(assigned))))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        let closing = self.closing.get_or_insert_with(|| {
            self.claims.close();
            let mut left = Vec::new();
            while let Ok(assigned) = self.claims.try_recv() {
                left.push(assigned);
            }
            let store = self.store.clone();
            Box::pin(async move {
                for assigned in &left {
                    give_back(&store, &assigned.claimed.claim, &assigned.lease.stop()).await;
                }
            })
        });
        ready!(closing.as_mut().poll(cx));
        // A stream that has ended does not end apalis' worker by itself: it waits to be told. It cannot fail to hear, as it
        // has been started.
        if !worker.is_shutting_down() && worker.stop().is_err() {
            tracing::debug!("the loop had not been started");
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Queue {
    type Args = Assigned;
    type Id = ();
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
