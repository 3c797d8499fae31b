//! The operators' console, in a real browser, over a real daemon.

mod browser;

use std::time::Duration;

use nix::sys::signal::Signal;
use sawmill::ids::JobId;
use sawmill::job::JobState;
use serde_json::json;

use self::browser::Browser;
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::small_remote;

const LEASE: Duration = Duration::from_secs(30);
const SERVES: &str = "serving the API on ";

/// A host whose API, with the console, and worker run in one process.
struct Site {
    host: Host,
    remote: String,
    address: String,
    daemon: Daemon,
    browser: Browser,
}

impl Site {
    async fn open(settings: &[(&'static str, &str)]) -> Self {
        let mut host = Host::new(On::Sqlite, LEASE, 1).await;
        host.set("SAWMILL_SERVER__LISTEN", "127.0.0.1:0");
        for (name, value) in settings {
            host.set(name, value);
        }
        let remote = small_remote(host.root(), "remote.git").to_str().expect("UTF-8").to_owned();
        let daemon = host.spawn_at(&Seat::of("a"), &["up"]);
        let address = address(&daemon).await;
        let browser = Browser::start(host.root()).await;
        Self { host, remote, address, daemon, browser }
    }

    fn enqueue(&self, command: &str) -> JobId {
        self.host.enqueue(&json!({ "repo": self.remote, "changes": "optional", "task": { "command": command } }))
    }

    /// Opens a view by its address, with nothing left of the one before.
    async fn view(&self, place: &str) {
        self.browser.open("about:blank").await;
        self.browser.open(&format!("{}/#{place}", self.address)).await;
    }

    async fn close(self) {
        self.browser.close().await;
        self.host.close(vec![self.daemon]).await;
    }
}

/// Where a daemon serves, once it does.
async fn address(daemon: &Daemon) -> String {
    let mut address = None;
    until("the API is served", async || {
        let log = daemon.log();
        address = log.split_once(SERVES).and_then(|(_, rest)| rest.split_whitespace().next()).map(str::to_owned);
        address.is_some()
    })
    .await;
    address.expect("it was found")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_seen_from_its_start_to_what_it_delivered_and_a_server_that_goes_away_is_told() {
    let mut site = Site::open(&[]).await;
    site.view("/").await;
    let browser = &site.browser;
    browser.reads("Nothing runs.").await;
    let latch = site.host.job_latch("work");
    latch.close();
    let job = site.enqueue(&format!("echo first words; {}; echo last words; echo more >> file", latch.here()));
    latch.reached().await;
    // Nobody has told the page to look.
    browser.click("//main//a[contains(., 'first words')]").await;
    browser.reads("on a").await;
    browser.reads("Where it is").await;
    browser.reads("first words\n").await;
    assert!(!browser.text().await.contains("\nlast words\n"), "it has not said that yet");
    latch.release().await;
    browser.reads("\nlast words\n").await;
    browser.reads("complete.").await;
    browser.reads("Delivered").await;
    browser.reads("in 1 file").await;
    let link = browser.evaluate("return document.querySelector('a[download]').href").await;
    let link = link.as_str().expect("a link");
    let kept = reqwest::get(link).await.expect("answered");
    assert_eq!(kept.headers()["content-disposition"], "attachment; filename=\"changes.patch\"");
    assert_eq!(kept.headers()["content-security-policy"], "default-src 'none'; sandbox");
    assert!(kept.text().await.expect("a text").contains("+more"));
    site.host.succeeded(job).await;

    site.daemon.signal(Signal::SIGTERM);
    site.daemon.exit().await;
    site.browser.reads("The server does not answer.").await;
    site.host.set("SAWMILL_SERVER__LISTEN", site.address.trim_start_matches("http://"));
    let address = site.address.clone();
    site.daemon = site.host.spawn_at(&Seat::of("a"), &["up"]);
    assert_eq!(self::address(&site.daemon).await, address);
    site.browser.reads_no_more("The server does not answer.").await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_job_is_told_and_what_ends_that_is_a_click_away() {
    let site = Site::open(&[("SAWMILL_BACKENDS__SHELL__CREDENTIAL", "team")]).await;
    let browser = &site.browser;
    let limit = r#"{"schema":1,"ok":false,"summary":"5-hour limit","retry_at":4000000000000}"#;
    let question = r#"{"schema":1,"ok":false,"clarification":"Left or right?"}"#;
    let to_result = |text: &str| format!("echo '{text}' > \"$SAWMILL_RESULT\"");
    let first = site.enqueue(&format!(
        "case $SAWMILL_ATTEMPT in 1) {};; 2) {};; *) grep -o 'To the left' \"$SAWMILL_SPEC\"; exec sleep 1000;; esac",
        to_result(limit),
        to_result(question)
    ));
    site.view("/").await;
    browser.reads("Credential team is paused").await;
    browser.reads("5-hour limit").await;
    site.view("/workers").await;
    browser.reads("Credential team is paused").await;
    site.view(&format!("/jobs/{first}")).await;
    browser.reads("Why it does not run").await;
    browser.reads("What would change it").await;

    site.view("/").await;
    browser.click("//button[. = 'Lift']").await;
    browser.reads("asks a question").await;
    browser.reads_no_more("is paused").await;
    browser.click("//li[contains(., 'asks a question')]/a").await;
    browser.reads("It asks: Left or right?").await;
    browser.write("//textarea", "To the").await;
    browser.asks_again(20).await;
    assert_eq!(browser.evaluate("return document.querySelector('textarea').value").await, "To the", "what is written stays");
    browser.write("//textarea", " left").await;
    browser.click("//button[. = 'Answer']").await;
    browser.reads("\nTo the left\n").await;

    browser.click("//summary[. = 'Cancel']").await;
    browser.write("//details[@open]//input[@name = 'reason']", "the wrong way").await;
    browser.click("//details[@open]//button[. = 'Cancel']").await;
    browser.reads("cancelled by request: the wrong way").await;
    // The log says so first.
    assert_eq!(site.host.ended(first).await.state, JobState::Cancelled);
    browser.click("//button[. = 'Retry']").await;
    until("it runs anew", async || site.host.job(first).await.state == JobState::Running).await;

    site.view("/workers").await;
    browser.click("//summary[. = 'Drain']").await;
    browser.write("//details[@open]//input[@name = 'reason']", "new disk").await;
    browser.click("//details[@open]//button[. = 'Drain']").await;
    browser.reads("Drained by the console (new disk)").await;
    let second = site.enqueue("true");
    site.view(&format!("/jobs/{second}")).await;
    browser.reads("drain").await;
    site.view("/").await;
    browser.reads("drains, as the console asked (new disk)").await;
    site.view("/workers").await;
    browser.click("//button[. = 'Resume']").await;
    browser.reads_no_more("Drained by").await;
    site.host.sawmill(&["job", "cancel", &first.to_string()]);
    site.host.succeeded(second).await;
    site.view("/jobs?state=cancelled").await;
    browser.reads("cancelled by request").await;
    site.view("/completions?state=pending").await;
    browser.reads("not handed out yet").await;
    site.view("/usage").await;
    browser.reads("No project has used anything").await;
    site.view("/jobs/01a228e3-0188-7401-937a-9630b5249930").await;
    browser.reads("There is no job").await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jobs_wrote_is_text_and_nothing_else() {
    let site = Site::open(&[]).await;
    let hostile = "<img src=x onerror=document.title=1><script>document.title=2</script>";
    let result = json!({ "schema": 1, "ok": true, "summary": format!("done {hostile}") });
    let command = format!(
        "printf '%s\\n' '{hostile}'; printf '\\033[31mred\\033[0m\\n'; echo x > '<b>name'; echo '{result}' > \"$SAWMILL_RESULT\""
    );
    let ask = |more: serde_json::Value| {
        let mut spec = json!({
            "repo": site.remote, "task": { "command": command, "instruction": format!("ask {hostile}") },
            "execution": { "id": "<b>run" }, "artifacts": [{ "path": "<b>*" }],
        });
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        site.host.enqueue(&spec)
    };
    let job = ask(json!({ "deliver": { "branch": "plain" } }));
    site.host.succeeded(job).await;
    // One that is on the first page.
    ask(json!({ "deliver": { "branch": "other" }, "requires": ["gpu"] }));
    let browser = &site.browser;
    for place in ["/", "/jobs", "/completions", &format!("/jobs/{job}")] {
        site.view(place).await;
        browser.reads(hostile).await;
        let made = browser.evaluate("return document.querySelectorAll('main :is(img, script), body > script').length").await;
        assert_eq!(made, json!(0), "{place}");
    }
    for text in ["\n<b>run\n", "<b>name", "\nred\n", &format!("done {hostile}")] {
        browser.reads(text).await;
    }
    let title = browser.evaluate("return document.title").await;
    assert!(title.as_str().is_some_and(|title| title.starts_with("ask <img")), "{title}");
    // Should a page ever make something of such a text, the browser does not run it.
    let made = "<img id=made src=/nowhere onerror=\"window.ran = true\">";
    browser.evaluate(&format!("document.body.insertAdjacentHTML('beforeend', {})", json!(made))).await;
    let failed = "const made = document.getElementById('made'); return made.complete && made.naturalWidth === 0";
    until("the image has failed", async || browser.evaluate(failed).await == json!(true)).await;
    browser
        .evaluate("const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s)")
        .await;
    assert_eq!(browser.evaluate("return window.ran ?? null").await, json!(null));
    let page = reqwest::get(&site.address).await.expect("answered");
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"), "{policy}");
    site.close().await;
}
