//! A browser of a test: Chromium without a window, by the program that drives it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities;
use thirtyfour::{By, DesiredCapabilities, WebDriver};

use crate::delivery::host::until;

/// How long the page may take to show something.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the driver says once it listens, before the port.
const LISTENS: &str = "started successfully on port ";

pub(super) struct Browser {
    page: WebDriver,
    driver: Child,
}

impl Browser {
    /// Starts one that keeps what it keeps below `dir`.
    pub(super) async fn start(dir: &Path) -> Self {
        static PROVIDER: Once = Once::new();
        // The client may ask by TLS, which these tests do not.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", dir)
            .env("HOME", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed: run the tests with `make test`, which installs it");
        let mut said = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let line = said.find_map(|line| line.ok().filter(|line| line.contains(LISTENS))).expect("it listens");
        let (_, port) = line.trim_end_matches('.').split_once(LISTENS).expect("the line that was found");
        // It goes on to talk.
        std::thread::spawn(move || said.for_each(drop));
        let mut wishes = DesiredCapabilities::chrome();
        let profile = format!("--user-data-dir={}", dir.join("browser").display());
        for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile] {
            wishes.add_arg(argument).expect("an argument");
        }
        let page = WebDriver::new(format!("http://127.0.0.1:{port}"), wishes).await.expect("a browser starts");
        Self { page, driver }
    }

    pub(super) async fn open(&self, address: &str) {
        self.page.goto(address).await.expect("the page opens");
    }

    /// What a person reads of the page.
    pub(super) async fn text(&self) -> String {
        self.evaluate("return document.body.innerText").await.as_str().expect("a text").to_owned()
    }

    pub(super) async fn evaluate(&self, script: &str) -> serde_json::Value {
        self.page.execute(script, Vec::new()).await.expect("the script runs").json().clone()
    }

    /// Waits until the page reads so; where it does not, what it read last is told.
    pub(super) async fn reads(&self, text: &str) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let read = self.text().await;
            if read.contains(text) {
                return;
            }
            assert!(Instant::now() < give_up, "the page does not read {text:?}, but:\n{read}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the page does not read so any more.
    pub(super) async fn reads_no_more(&self, text: &str) {
        until(&format!("the page does not read {text:?}"), async || !self.text().await.contains(text)).await;
    }

    /// Clicks what an XPath finds, once it is there: the page may put another in its place at any moment.
    pub(super) async fn click(&self, path: &str) {
        until(&format!("{path} can be clicked"), async || match self.page.find(By::XPath(path)).await {
            Ok(element) => element.click().await.is_ok(),
            Err(_) => false,
        })
        .await;
    }

    /// Waits until the page has asked so many times more.
    pub(super) async fn asks_again(&self, times: u64) {
        let asked =
            async || self.evaluate("return performance.getEntriesByType('resource').length").await.as_u64().expect("a number");
        let before = asked().await;
        until("the page asks again", async || asked().await >= before + times).await;
    }

    /// Writes into the field that an XPath finds.
    pub(super) async fn write(&self, path: &str, text: &str) {
        until(&format!("{path} can be written in"), async || match self.page.find(By::XPath(path)).await {
            Ok(field) => field.send_keys(text).await.is_ok(),
            Err(_) => false,
        })
        .await;
    }

    pub(super) async fn close(mut self) {
        self.page.clone().quit().await.expect("the browser ends");
        self.driver.kill().expect("the driver is there");
        self.driver.wait().expect("a child");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended.
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
