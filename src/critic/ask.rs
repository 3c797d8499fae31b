//! Asking a critic: the request, at most one more, and what is made of what comes back.
//!
//! The one rule: everything is bounded (the time of all tries together, the size of an answer, the number of tries), no redirect is
//! followed, and what was used is counted whatever came of it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use url::{Host, Url};
use uuid::Uuid;

use super::answer::{self, Answer};
use super::config::{CriticConfig, Kind};
use super::prompt::{self, Prompt, Question};
use super::protocol::{self, Before};
use crate::job::completion::Usage;
use crate::job::critique::Remark;
use crate::redact::Redactor;

/// How long asking may take where the configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server that did not answer is left in peace before it is asked once more.
const PAUSE: Duration = Duration::from_secs(2);
/// The largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;
/// How much of a server's own complaint is told, in characters.
const COMPLAINT_MAX: usize = 200;

/// The critics of this worker, by name.
#[derive(Debug, Clone)]
pub struct Critics {
    critics: BTreeMap<String, Critic>,
}

/// One critic.
#[derive(Debug, Clone)]
pub struct Critic {
    name: String,
    config: CriticConfig,
    http: reqwest::Client,
    to: Url,
}

/// Why a critic cannot be.
#[derive(Debug, thiserror::Error)]
#[error("critics.{critic}: {why}")]
pub struct CriticError {
    critic: String,
    why: String,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// It judged.
    Judged(Judged),
    /// It did not, and why.
    Not(String),
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// How good it is, from 0 to 100.
    pub score: u8,
    /// About the whole.
    pub summary: String,
    /// What was found.
    pub findings: Vec<Remark>,
    /// Why it is not to be delivered, where it is not.
    pub rejected: Option<String>,
}

/// Why a try came to nothing.
enum Failed {
    /// It may be otherwise the next time.
    Now(String),
    /// It will not be.
    ForGood(String),
    /// What came back is no answer.
    NoAnswer { words: String, why: String },
}

impl Critics {
    /// What is configured.
    ///
    /// # Errors
    /// One whose configuration cannot work.
    pub fn new(configured: &BTreeMap<String, CriticConfig>) -> Result<Self, CriticError> {
        let made = configured.iter().map(|(name, config)| Ok((name.clone(), Critic::new(name, config)?)));
        Ok(Self { critics: made.collect::<Result<_, CriticError>>()? })
    }

    /// The critic of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Critic> {
        self.critics.get(name)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Critic> {
        self.critics.values()
    }
}

impl Critic {
    fn new(name: &str, config: &CriticConfig) -> Result<Self, CriticError> {
        let flaw = |why: String| CriticError { critic: name.to_owned(), why };
        if config.key.is_some() && config.key_file.is_some() {
            return Err(flaw("key and key_file exclude each other".to_owned()));
        }
        if config.model.trim().is_empty() {
            return Err(flaw("model is empty; say which model is to judge".to_owned()));
        }
        if config.min_score.is_some_and(|least| least > 100) {
            return Err(flaw("min_score is a number from 0 to 100".to_owned()));
        }
        let endpoint = config.endpoint.as_ref().map_or(config.kind.usual_endpoint(), Url::as_str);
        let to = format!("{}/{}", endpoint.trim_end_matches('/'), protocol::path(config.kind));
        let to = Url::parse(&to).map_err(|error| flaw(format!("endpoint: {error}")))?;
        if !matches!(to.scheme(), "http" | "https") || to.host().is_none() {
            return Err(flaw("endpoint does not begin with http:// or https://".to_owned()));
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err(flaw(
                "endpoint has a user or a password in it, which logs would show; give the key by key or key_file".to_owned(),
            ));
        }
        // An error means that an implementation of TLS is installed already, and all are the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).redirect(reqwest::redirect::Policy::none());
        if is_here(&to) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| flaw(error.to_string()))?;
        Ok(Self { name: name.to_owned(), config: config.clone(), http, to })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration.
    #[must_use]
    pub const fn config(&self) -> &CriticConfig {
        &self.config
    }

    /// Where it is asked.
    #[must_use]
    pub const fn server(&self) -> &Url {
        &self.to
    }

    /// The key, where it has one.
    ///
    /// # Errors
    /// The variable is not set, or the file cannot be read: what to do is in the sentence.
    pub fn key(&self, environment: &BTreeMap<String, String>) -> Result<Option<String>, String> {
        if let Some(name) = &self.config.key {
            let value = environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| format!("{name}, which key names, is not set in the worker's environment"))?;
            return Ok(Some(value.to_owned()));
        }
        let Some(path) = &self.config.key_file else { return Ok(None) };
        let text = fs::read_to_string(path).map_err(|error| format!("cannot read key_file {}: {error}", path.display()))?;
        let value = text.trim();
        if value.is_empty() {
            return Err(format!("key_file {} is empty", path.display()));
        }
        Ok(Some(value.to_owned()))
    }

    /// Asks about a commit. What that used is added to `used` as it becomes known, also where the asking is given up.
    pub async fn ask(
        &self,
        question: &Question,
        environment: &BTreeMap<String, String>,
        redactor: &Redactor,
        used: &mut Option<Usage>,
    ) -> Asked {
        let key = match self.key(environment) {
            Ok(key) => key,
            Err(why) => return Asked::Not(why),
        };
        let own = Redactor::new(key.iter());
        let fence = Uuid::new_v4().simple().to_string();
        let prompt = prompt::prompt(question, self.config.instructions.as_deref(), &fence, &[redactor, &own]);
        let limit = self.config.timeout.unwrap_or(TIMEOUT);
        match tokio::time::timeout(limit, self.tries(&prompt, key.as_deref(), used)).await {
            Err(_) => Asked::Not(format!("{} did not answer within {}", self.to, crate::clock::human::format(limit))),
            Ok(Err(why)) => Asked::Not(String::from_utf8_lossy(&own.redact(why.as_bytes())).into_owned()),
            Ok(Ok(answer)) => {
                let rejected = answer::rejects(&answer, &self.name, self.config.min_score);
                let Answer { score, summary, findings } = answer;
                Asked::Judged(Judged { score, summary, findings, rejected })
            }
        }
    }

    /// Asks, and once more where that may help.
    async fn tries(&self, prompt: &Prompt, key: Option<&str>, used: &mut Option<Usage>) -> Result<Answer, String> {
        let before = match self.try_once(prompt, key, None, used).await {
            Ok(answer) => return Ok(answer),
            Err(Failed::ForGood(why)) => return Err(why),
            Err(Failed::Now(_)) => {
                tokio::time::sleep(PAUSE).await;
                None
            }
            Err(Failed::NoAnswer { words, why }) => Some((words, prompt::again(&why))),
        };
        self.try_once(prompt, key, before.as_ref(), used).await.map_err(|failed| match failed {
            Failed::Now(why) | Failed::ForGood(why) => why,
            Failed::NoAnswer { why, .. } => format!("what {} answered cannot be read as a verdict: {why}", self.config.model),
        })
    }

    async fn try_once(
        &self,
        prompt: &Prompt,
        key: Option<&str>,
        before: Option<&Before>,
        used: &mut Option<Usage>,
    ) -> Result<Answer, Failed> {
        let CriticConfig { kind, model, price, .. } = &self.config;
        let mut request = self.http.post(self.to.clone()).json(&protocol::request(*kind, model, prompt, before));
        request = match (kind, key) {
            (Kind::OpenAi, Some(key)) => request.bearer_auth(key),
            (Kind::Anthropic, Some(key)) => request.header("x-api-key", key),
            (_, None) => request,
        };
        if *kind == Kind::Anthropic {
            request = request.header("anthropic-version", protocol::ANTHROPIC_VERSION);
        }
        let unreachable = |error: reqwest::Error| Failed::Now(format!("cannot reach {}: {}", self.to, cause(&error)));
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            if body.len() + piece.len() > ANSWER_MAX {
                return Err(Failed::ForGood(format!("the answer of {} has more than {ANSWER_MAX} bytes", self.to)));
            }
            body.extend_from_slice(&piece);
        }
        if !status.is_success() {
            let why = format!("{} answered {status}{}", self.to, complaint(&body));
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429);
            return Err(if passing { Failed::Now(why) } else { Failed::ForGood(why) });
        }
        let document: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (words, usage) = protocol::response(*kind, model, *price, &document);
        *used = Usage::sum(used.take(), usage);
        let words = words.unwrap_or_default();
        answer::parse(&words).map_err(|why| Failed::NoAnswer { words: words.chars().take(COMPLAINT_MAX * 10).collect(), why })
    }
}

/// What a server says of a refusal.
fn complaint(body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let said = document["error"]["message"].as_str().or(document["error"].as_str()).unwrap_or_default().trim().to_owned();
    let said: String = said.chars().filter(|c| !c.is_control()).take(COMPLAINT_MAX).collect();
    if said.is_empty() { said } else { format!(": {said}") }
}

/// The innermost cause, which says what was the matter.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether a server is on this host: a proxy for the way out has nothing to do with it.
fn is_here(to: &Url) -> bool {
    match to.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> CriticConfig {
        toml::from_str("kind = \"openai\"\nmodel = \"m\"").expect("a critic")
    }

    fn made(config: CriticConfig) -> Result<Critic, String> {
        let critics = Critics::new(&BTreeMap::from([("second".to_owned(), config)])).map_err(|error| error.to_string())?;
        critics.get("second").cloned().ok_or_else(|| "it is not there".to_owned())
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let check = |config: CriticConfig, expected: &str| assert_eq!(made(config).err().as_deref(), Some(expected));
        let both = CriticConfig { key: Some("KEY".to_owned()), key_file: Some("/key".into()), ..config() };
        check(both, "critics.second: key and key_file exclude each other");
        check(CriticConfig { min_score: Some(101), ..config() }, "critics.second: min_score is a number from 0 to 100");
        let ftp = Url::parse("ftp://models.example.org").expect("a URL");
        let wrong = "critics.second: endpoint does not begin with http:// or https://";
        check(CriticConfig { endpoint: Some(ftp), ..config() }, wrong);
        let known = Url::parse("https://me:secret@models.example.org/v1").expect("a URL");
        let wrong =
            "critics.second: endpoint has a user or a password in it, which logs would show; give the key by key or key_file";
        check(CriticConfig { endpoint: Some(known), ..config() }, wrong);
    }

    #[test]
    fn it_is_asked_below_its_endpoint_with_a_key_from_where_that_is() {
        let endpoint = Url::parse("http://models.example.org/v1/").expect("a URL");
        let critic = made(CriticConfig { endpoint: Some(endpoint), key: Some("KEY".to_owned()), ..config() }).expect("a critic");
        assert_eq!(critic.server().as_str(), "http://models.example.org/v1/chat/completions");
        let environment = BTreeMap::from([("KEY".to_owned(), " sk-1 \n".to_owned())]);
        assert_eq!(critic.key(&environment), Ok(Some("sk-1".to_owned())));
        let why = critic.key(&BTreeMap::new()).expect_err("it is not set");
        assert_eq!(why, "KEY, which key names, is not set in the worker's environment");
        let none = made(CriticConfig { kind: Kind::Anthropic, ..config() }).expect("a critic");
        assert_eq!(none.server().as_str(), "https://api.anthropic.com/v1/messages");
        assert_eq!(none.key(&environment), Ok(None));
    }
}
