//! What every queue in the comparison can be asked for, and how its jobs are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// What is in a queue besides the jobs that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Nothing.
    Empty,
    /// So many jobs that wait, as claimable as those that are measured.
    Waiting(u64),
    /// So many jobs that have ended.
    Finished(u64),
}

/// One queue in a database of its own, with the load that it was made with.
pub(crate) trait System: Send + Sync {
    /// Brings the number of waiting no-op jobs up to `waiting`, by whatever is fastest.
    fn fill(&self, waiting: u64) -> BoxFuture<'_, ()>;

    /// Takes out all jobs, waiting or not.
    fn clear(&self) -> BoxFuture<'_, ()>;

    /// Enqueues no-op jobs one by one from so many producers at once, for as long as `window`. Jobs each second.
    fn enqueue(&self, producers: usize, window: Duration) -> BoxFuture<'_, f64>;

    /// Runs no-op jobs with so many slots. Jobs each second, as [`Meter`] counts them.
    fn drain(&self, slots: usize, span: Span) -> BoxFuture<'_, f64>;

    /// Enqueues jobs one by one for a worker that has nothing else to do, and waits for each to start. Milliseconds.
    fn latency(&self, samples: usize) -> BoxFuture<'_, Vec<f64>>;
}

/// How long is measured: after `warm`, until `window` is over or `jobs` have ended, whichever comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warm: Duration,
    pub(crate) window: Duration,
    pub(crate) jobs: u64,
}

/// Counts jobs: ours when their end is on record, others' when their handler has run, since they do not tell more. What they hold
/// between the two is bounded, and counts for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    pub(crate) fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The rate over the span, which begins with the first job that ended.
    pub(crate) async fn rate(&self, span: Span) -> f64 {
        let count = || self.0.load(Ordering::Relaxed);
        let pause = || tokio::time::sleep(Duration::from_millis(1));
        let deadline = Instant::now() + Duration::from_secs(30);
        while count() == 0 {
            assert!(Instant::now() < deadline, "no job ended within 30 s");
            pause().await;
        }
        let warm = Instant::now() + span.warm;
        while Instant::now() < warm && count() < span.jobs / 4 {
            pause().await;
        }
        let (begun, before) = (Instant::now(), count());
        while begun.elapsed() < span.window && count() < span.jobs {
            pause().await;
        }
        (count() - before) as f64 / begun.elapsed().as_secs_f64()
    }
}

/// Runs `push` in turn from each of so many producers until the window is over.
pub(crate) async fn produce<F, Fut>(producers: usize, window: Duration, push: F) -> f64
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let meter = Meter::default();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..producers)
        .map(|_| {
            let (meter, push) = (meter.clone(), push.clone());
            tokio::spawn(async move {
                while begun.elapsed() < window {
                    push().await;
                    meter.tick();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a producer does not panic");
    }
    meter.0.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// Pushes one job after the other, each when the last one has started and a little time has passed.
pub(crate) async fn ping<F, Fut>(samples: usize, mut started: mpsc::UnboundedReceiver<Instant>, push: F) -> Vec<f64>
where
    F: Fn() -> Fut,
    Fut: Future<Output = ()>,
{
    let mut delays = Vec::new();
    // The first ones open connections and prepare statements.
    for sample in 0..samples + 5 {
        // Uneven, so that no beat with anybody's timer arises.
        tokio::time::sleep(Duration::from_micros(3_000 + (sample as u64 * 7_919) % 4_000)).await;
        let pushed = Instant::now();
        push().await;
        let start = tokio::time::timeout(Duration::from_secs(60), started.recv()).await.expect("it starts within a minute");
        if sample >= 5 {
            delays.push(start.expect("the worker lives").duration_since(pushed).as_secs_f64() * 1e3);
        }
    }
    delays
}
