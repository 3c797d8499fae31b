//! What stores of this process have SQLite do.
//!
//! The one rule: statements are as the driver tells them, not as a test repeats them. A store's connections work in threads that are called
//! by its file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// The name of a thread, and what it did, with how often it did it.
static SAID: Mutex<BTreeMap<(String, String), usize>> = Mutex::new(BTreeMap::new());
static LISTENING: Once = Once::new();

/// Hears from now on.
pub(crate) fn listen() {
    LISTENING.call_once(|| {
        let of_driver = filter_fn(|metadata| metadata.target() == "sqlx::query");
        let listener = tracing_subscriber::registry().with(Said.with_filter(of_driver));
        tracing::subscriber::set_global_default(listener).expect("nobody else in this process listens everywhere");
    });
}

/// The statements on this file so far, each once.
pub(crate) fn statements(file: &str) -> BTreeSet<String> {
    let said = SAID.lock().expect("no test panics with it").clone();
    let of_file = said.keys().filter(|(thread, _)| thread.ends_with(file));
    of_file.flat_map(|(_, text)| text.split(';')).map(|statement| statement.trim().to_owned()).collect()
}

/// How many statements were run on this file so far.
pub(crate) fn count(file: &str) -> usize {
    let said = SAID.lock().expect("no test panics with it");
    said.iter().filter(|((thread, _), _)| thread.ends_with(file)).map(|(_, times)| times).sum()
}

struct Said;

impl<S: Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(thread) = std::thread::current().name().filter(|name| name.starts_with("sqlite-")) {
            let mut text = Text::default();
            event.record(&mut text);
            // A short one is its own summary.
            let text = if text.statement.is_empty() { text.summary } else { text.statement };
            SAID.lock()
                .expect("no test panics with it")
                .entry((thread.to_owned(), text))
                .and_modify(|times| *times += 1)
                .or_insert(1);
        }
    }
}

#[derive(Default)]
struct Text {
    summary: String,
    statement: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
