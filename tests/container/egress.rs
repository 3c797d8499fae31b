//! What a job reaches of the network, where it reaches any.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use sawmill::job::{JobState, OutcomeClass, Stream};
use sawmill::sandbox::container::Network;
use sawmill::sandbox::egress::{Proxy, Refused, Rules};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::engine::Engine;
use super::{Guest, LONG, Yard, directory, image, until};
use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::small_remote;

/// What a host has that is reached from outside: an address of the internet, the one of metadata services, and a bridge.
const HOST_APART: &str = "ip link set lo up; ip address add 93.184.215.14/32 dev lo; ip address add 169.254.169.254/32 dev lo";

/// Servers on this host that answer everybody with the same page; they end with the test.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                let length = stream.read(&mut asked).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&asked[..length]).to_lowercase();
                let host = text.lines().find_map(|line| line.strip_prefix("host:")).unwrap_or_default();
                let page = format!("reached by {}\n", host.trim());
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}", page.len());
                stream.write_all(answer.as_bytes()).await.ok();
            });
        }
    });
    port
}

fn rules(texts: &[String]) -> Rules {
    texts.iter().map(|text| text.parse::<sawmill::sandbox::egress::Rule>().expect("a rule")).collect()
}

async fn yard(network: Network, texts: &[String]) -> Yard {
    Yard::with(|config| {
        config.network = network;
        config.egress = rules(texts);
    })
    .await
}

/// What a proxy has refused so far.
type Heard = Arc<Mutex<Vec<String>>>;

async fn open(guest: &Guest<'_>) -> (Proxy, Heard) {
    let heard = Heard::default();
    let into = heard.clone();
    let opened = guest
        .yard
        .containers
        .open_egress(&guest.lodging.container, move |refused: &Refused| into.lock().expect("a list").push(refused.to_string()))
        .await;
    (opened.expect("it lives").expect("a way out"), heard)
}

/// Asks for a page of plain HTTP, and for a tunnel through which it is then asked for, as a job would.
async fn fetch(guest: &Guest<'_>, proxy: &Proxy, place: &str) -> (String, String) {
    let (at, port) = (proxy.address(), proxy.address().port());
    let (_, page) = guest.run(&format!("http_proxy=http://{at} timeout 20 wget -q -O - http://{place}/ 2>&1")).await;
    let asked = format!("CONNECT {place} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: {place}\\r\\n\\r\\n");
    // The request's end is not the connection's: the answer ends it, or a second does.
    let (_, tunnel) = guest.run(&format!("(printf '{asked}'; sleep 1) | nc -w 20 127.0.0.1 {port}")).await;
    (page, tunnel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_allow_list_a_job_reaches_what_is_listed_and_nothing_else() {
    let (listed, other) = (server().await, server().await);
    let yard = yard(Network::AllowList, &[format!("127.0.0.1:{listed}"), "*:*".to_owned()]).await;
    let guest = yard.take(0).await;
    let (proxy, heard) = open(&guest).await;

    let place = format!("127.0.0.1:{listed}");
    let (page, tunnel) = fetch(&guest, &proxy, &place).await;
    assert_eq!(page, format!("reached by {place}\n"));
    assert!(tunnel.starts_with("HTTP/1.1 200 OK") && tunnel.ends_with(&page), "{tunnel}");
    assert!(heard.lock().expect("a list").is_empty());

    // Not even what would let everything public through lets these.
    let mut expected = Vec::new();
    for closed in [format!("127.0.0.1:{other}"), "169.254.169.254:80".into(), "10.0.0.1:80".into(), "172.17.0.1:22".into()] {
        let why = format!("{closed}: it is not listed in container.egress");
        let (page, tunnel) = fetch(&guest, &proxy, &closed).await;
        assert!(page.contains("403 Forbidden"), "{closed}: {page}");
        assert!(tunnel.starts_with("HTTP/1.1 403 Forbidden") && tunnel.contains(&why), "{closed}: {tunnel}");
        expected.extend([why.clone(), why]);
    }
    assert_eq!(*heard.lock().expect("a list"), expected);

    // There is no way past it: neither over TCP nor to a name server.
    assert_eq!(guest.run("ls /sys/class/net | grep -v '^lo$'").await.1, "");
    for direct in
        [format!("127.0.0.1 {listed}"), "169.254.169.254 80".to_owned(), "172.17.0.1 22".to_owned(), "1.1.1.1 53".to_owned()]
    {
        let (_, said) = guest.run(&format!("nc -w 3 {direct} < /dev/null && echo reached")).await;
        assert!(!said.contains("reached"), "{direct}: {said}");
    }
    guest.leave();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_means_a_private_address_is_refused_unless_that_is_listed_too() {
    let port = server().await;
    let place = format!("localhost:{port}");
    let named = yard(Network::AllowList, std::slice::from_ref(&place)).await;
    let guest = named.take(0).await;
    let (proxy, heard) = open(&guest).await;
    let (page, tunnel) = fetch(&guest, &proxy, &place).await;
    assert!(
        page.contains("403") && tunnel.contains("which is not public and not listed in container.egress by its address"),
        "{tunnel}"
    );
    assert!(heard.lock().expect("a list")[0].starts_with(&format!("{place}: it means ")), "{heard:?}");
    // Another name for the same is refused before it is looked up.
    let (_, tunnel) = fetch(&guest, &proxy, &format!("localhost.localdomain:{port}")).await;
    assert!(tunnel.contains("it is not listed"), "{tunnel}");
    guest.leave();
    named.close().await;

    let both = yard(Network::AllowList, &[place.clone(), format!("127.0.0.1:{port}")]).await;
    let guest = both.take(0).await;
    let (proxy, _) = open(&guest).await;
    // The name of whoever answers is the name that was checked, whatever the header says.
    let (_, said) = guest
        .run(&format!(
            "(printf 'GET http://{place}/ HTTP/1.1\\r\\nHost: elsewhere\\r\\n\\r\\n'; sleep 1) | nc -w 20 127.0.0.1 {}",
            proxy.address().port()
        ))
        .await;
    assert!(said.ends_with(&format!("reached by {place}\n")), "{said}");
    guest.leave();
    both.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_out_is_found_at_the_same_place_by_the_next_daemon() {
    let place = format!("127.0.0.1:{}", server().await);
    let yard = yard(Network::AllowList, std::slice::from_ref(&place)).await;
    let guest = yard.take(0).await;
    let (proxy, _) = open(&guest).await;
    let at = proxy.address();
    drop(proxy);
    // Meanwhile who asks waits.
    let command = guest.start(&format!("echo ready; http_proxy=http://{at} timeout 60 wget -q -O - http://{place}/")).await;
    let (proxy, _) = open(&guest).await;
    assert_eq!(proxy.address(), at);
    guest.supervisor.wait(&command.id).await.expect("a report");
    let said = std::fs::read_to_string(&command.stdout).expect("its output");
    assert_eq!(said, format!("ready\nreached by {place}\n"));
    guest.leave();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_was_refused_is_in_its_log_and_in_the_daemons() {
    let port = server().await;
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__NETWORK", "allow-list");
    let listed = format!("[\"127.0.0.1:{port}\"]");
    host.set("SAWMILL_CONTAINER__EGRESS", &listed);
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let command = format!(
        "wget -q -O page http://127.0.0.1:{port}/ && ! wget -q -O - http://evil.example/ 2>&1 && ! wget -q -O - http://evil.example/x"
    );
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command }, "gates": [
        { "name": "gate", "command": format!("wget -q -O - http://127.0.0.1:{port}/") },
    ] }));
    host.succeeded(job).await;
    let said = host.log(job, 1, Stream::System).await;
    let refused = "was not let reach evil.example:80: it is not listed in container.egress";
    assert_eq!(said.matches(refused).count(), 1, "{said}");
    assert!(said.contains("2 connections of the job were refused"), "{said}");
    let line = worker.log().lines().find(|line| line.contains(refused)).expect("a line of the daemon's").to_owned();
    assert!(line.contains(&job.to_string()) && line.contains("evil.example"), "{line}");
    host.close(vec![worker]).await;
}

/// An engine with a bridge, and servers on its host at port 80 of every address.
struct Bridged {
    engine: Engine,
    pages: tempfile::TempDir,
    server: Child,
}

impl Bridged {
    async fn start() -> Self {
        let engine = Engine::start(Some(HOST_APART)).await;
        let pages = tempfile::tempdir().expect("a directory");
        std::fs::write(pages.path().join("page"), "reached\n").expect("a page");
        let mut server = Command::new("nsenter");
        server.args(["--net", "--target", &engine.pid().to_string(), "/bin/busybox", "httpd", "-f", "-p", "80", "-h"]);
        let server = server.arg(pages.path()).stdin(Stdio::null()).spawn().expect("nsenter is installed");
        Self { engine, pages, server }
    }

    async fn yard(&self, texts: &[String]) -> Yard {
        let name = self.image().await;
        let socket = self.engine.socket();
        Yard::again(directory(), LONG, |config| {
            (config.socket, config.image, config.warm) = (socket, name, 0);
            (config.network, config.egress) = (Network::Bridge, rules(texts));
        })
        .await
    }

    async fn image(&self) -> String {
        image::image_at(&self.engine.socket(), "tools", image::TOOLS).await
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

async fn page(guest: &Guest<'_>, address: &str) -> bool {
    guest.run(&format!("timeout 5 wget -q -O - http://{address}/page 2>&1")).await.1 == "reached\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_bridge_a_job_reaches_what_is_public_and_of_the_rest_what_is_listed() {
    let bridged = Bridged::start().await;
    assert!(bridged.pages.path().join("page").exists());
    let closed = bridged.yard(&[]).await;
    let lodging = closed.containers.take(&closed.wish(0)).await.expect("a container");
    let guest = Guest { yard: &closed, slot: 0, supervisor: lodging.container.supervisor(), lodging };
    until("the server answers", async || page(&guest, "93.184.215.14").await).await;
    let (_, routes) = guest.run("ip route").await;
    let gateway = routes.split_whitespace().nth(2).expect("a gateway").to_owned();
    assert!(!page(&guest, "169.254.169.254").await, "the metadata service");
    assert!(!page(&guest, &gateway).await, "the host");
    assert!(!page(&guest, "10.0.0.1").await, "a private network");
    let (_, said) = guest.run("iptables -F 2>&1; ip link set eth0 down 2>&1; ip route del default 2>&1").await;
    assert!(page(&guest, "93.184.215.14").await && !page(&guest, &gateway).await, "{said}");
    guest.leave();
    closed.containers.close().await;

    let listed = bridged.yard(&["169.254.169.254".to_owned(), format!("{gateway}:80")]).await;
    let lodging = listed.containers.take(&listed.wish(0)).await.expect("a container");
    let guest = Guest { yard: &listed, slot: 0, supervisor: lodging.container.supervisor(), lodging };
    assert!(page(&guest, "169.254.169.254").await, "which shows that it is there to be reached");
    assert!(page(&guest, &gateway).await);
    guest.leave();
    listed.containers.close().await;
}

/// A worker that cannot find what would close the bridge: its jobs fail for that, and do not run on the host instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_bridge_cannot_be_closed_is_refused() {
    let bridged = Bridged::start().await;
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let programs = programs_without_filter(host.root());
    host.set("SAWMILL_CONTAINER__SOCKET", bridged.engine.socket().to_str().expect("UTF-8"));
    host.set("SAWMILL_CONTAINER__IMAGE", &bridged.image().await);
    host.set("SAWMILL_CONTAINER__MODE", "auto");
    host.set("SAWMILL_CONTAINER__NETWORK", "bridge");
    host.set("SAWMILL_CONTAINER__WARM", "0");
    host.set("PATH", programs.to_str().expect("UTF-8"));
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo ran > ran" } }));
    let ended = host.ended(job).await;
    assert_eq!(ended.state, JobState::Failed);
    let outcome = ended.outcome.expect("an outcome");
    assert_eq!(outcome.class, OutcomeClass::Infrastructure, "{outcome:?}");
    let attempts = host.attempts(job).await;
    let why = "cannot close private addresses to a container with a bridge: iptables-restore: ";
    let said = attempts.iter().filter_map(|one| one.outcome.as_ref()).all(|outcome| outcome.message.contains(why));
    assert!(said, "{attempts:?}");
    let doctor = host.command(&crate::delivery::daemon::Seat::of("a-doctor"), &["doctor"]).output().expect("it runs");
    let doctor = String::from_utf8_lossy(&doctor.stdout).replace('\n', " ");
    assert!(doctor.contains("cannot close private addresses"), "{doctor}");
    let owned = host.state_dir("a");
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    let mut worker = worker;
    assert!(worker.exit().await.success(), "{}", host.logs());
    assert!(!owned.join("slots/0/job/tree").exists(), "nothing is left");
}

/// A directory with the programs that a worker needs, but for those that set packet filters.
fn programs_without_filter(root: &Path) -> PathBuf {
    let dir = root.join("programs");
    std::fs::create_dir(&dir).expect("a directory");
    let path = std::env::var_os("PATH").expect("a PATH");
    for program in ["git", "sh", "env", "cat", "ls", "mkdir", "rm", "uname"] {
        if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists()) {
            std::os::unix::fs::symlink(found, dir.join(program)).expect("a link");
        }
    }
    dir
}
