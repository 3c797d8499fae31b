//! The planner: it asks for the jobs through the API, as often as it takes, and cancels some of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use sawmill::ids::JobId;
use sawmill::job::JobState;
use sawmill::store::JobFilter;
use serde_json::{Value, json};

use super::orders::{Kind, Order};
use super::server::free_port;
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, PATIENCE, until};

/// How long one request may take. The database may be away, and then the answer is that it is.
const REQUEST: Duration = Duration::from_secs(30);

/// The API in a process of its own, and a client of it.
pub(super) struct Planner {
    server: Daemon,
    base: String,
    client: reqwest::Client,
}

impl Planner {
    pub(super) async fn start(host: &Host) -> Self {
        // As the program does; another test may have done it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let address = format!("127.0.0.1:{}", free_port());
        let seat = Seat {
            worker: "api".to_owned(),
            url: None,
            prefix: vec!["env".to_owned(), format!("SAWMILL_SERVER__LISTEN={address}")],
        };
        let server = host.spawn_at(&seat, &["serve"]);
        until("the API is served", async || server.log().contains("serving the API")).await;
        let client = reqwest::Client::builder().timeout(REQUEST).build().expect("a client");
        Self { server, base: format!("http://{address}/v1/jobs"), client }
    }

    /// Asks for a job until there is an answer. The key makes asking again harmless.
    pub(super) async fn enqueue(&self, order: &Order) -> JobId {
        let job = self.insist(&self.base, &order.spec(), &[StatusCode::CREATED, StatusCode::OK]).await;
        job["id"].as_str().expect("an id").parse().expect("an id")
    }

    /// Cancels a job, which may have ended.
    pub(super) async fn cancel(&self, job: JobId) {
        let accepted = [StatusCode::OK, StatusCode::ACCEPTED, StatusCode::CONFLICT];
        self.insist(&format!("{}/{job}/cancel", self.base), &json!({ "reason": "torture" }), &accepted).await;
    }

    async fn insist(&self, url: &str, body: &Value, accepted: &[StatusCode]) -> Value {
        let give_up = Instant::now() + 2 * PATIENCE;
        loop {
            let said = match self.client.post(url).json(body).send().await {
                Ok(response) if accepted.contains(&response.status()) => {
                    return response.json().await.expect("JSON");
                }
                Ok(response) => {
                    let (status, text) = (response.status(), response.text().await.unwrap_or_default());
                    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{url}: {text}\n{}", self.server.log());
                    text
                }
                Err(error) => format!("{error:?}"),
            };
            assert!(Instant::now() < give_up, "{url}: {said}\n{}", self.server.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Looks once at what runs, and cancels what is to be cancelled: endless jobs when they were seen before, others at once.
    pub(super) async fn cancel_once(&self, host: &Host, orders: &BTreeMap<JobId, Order>, seen: &mut BTreeMap<JobId, u32>) {
        let filter = JobFilter { state: Some(JobState::Running), limit: 100, ..JobFilter::default() };
        // The database may be away; there is another time.
        let Ok(running) = host.store.jobs(&filter).await else { return };
        for job in running.items {
            let Some(order) = orders.get(&job.id).filter(|order| order.is_cancelled()) else { continue };
            let times = seen.entry(job.id).or_default();
            *times += 1;
            let due = match order.kind {
                Kind::Endless => *times > 2 + order.number % 5,
                _ => *times > order.number % 3,
            };
            if due && job.cancel_requested_at.is_none() {
                self.cancel(job.id).await;
            }
        }
    }

    /// The process, to be ended with the others.
    pub(super) fn into_daemon(self) -> Daemon {
        self.server
    }
}
