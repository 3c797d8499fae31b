//! The client over real connections that break in the middle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sawmill::cli::{Client, Exit};
use sawmill::job::{OutcomeClass, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::world::{World, chunk, cli};

/// Serves the API on a free port.
async fn serve(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(sawmill::api::serve(listener, world.router.clone(), Duration::ZERO, world.shutdown.clone()));
    address
}

/// A way to `server` on which each connection breaks after the next of `limits` bytes, and those after them last.
async fn breaking_way(server: SocketAddr, limits: Vec<usize>, broken: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut limits = limits.into_iter();
        loop {
            let Ok((client, _)) = listener.accept().await else { return };
            let limit = limits.next();
            let broken = Arc::clone(&broken);
            tokio::spawn(async move {
                let upstream = TcpStream::connect(server).await.expect("the server listens");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = upstream.into_split();
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut left = limit.unwrap_or(usize::MAX);
                    let mut buffer = [0; 512];
                    while left > 0 {
                        let room = buffer.len().min(left);
                        match from_server.read(&mut buffer[..room]).await {
                            Ok(0) | Err(_) => return,
                            Ok(count) if to_client.write_all(&buffer[..count]).await.is_ok() => left -= count,
                            Ok(_) => return,
                        }
                    }
                    broken.fetch_add(1, Ordering::SeqCst);
                };
                tokio::select! { _ = up => {}, () = down => {} }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_log_read_over_breaking_connections_has_no_byte_missing_and_none_twice() {
    let world = World::on_sqlite().await;
    let server = serve(&world).await;
    let broken = Arc::new(AtomicUsize::new(0));
    // The first break falls into the headers' neighbourhood, the others into the middle of events.
    let way = breaking_way(server, vec![700, 3_333, 1_001, 20_011], Arc::clone(&broken)).await;
    let id = world.enqueue("true").await;
    let text = id.to_string();

    let mut written = Vec::new();
    let client = Client::http(&format!("http://{way}")).expect("an address");
    let line = ["logs", text.as_str(), "-f"];
    let (read, ()) = tokio::join!(cli(&client, &line), async {
        let claim = world.claim().await;
        for seq in 0_u64..300 {
            // Lines, characters of several bytes that pieces cut, and bytes that are no text.
            let data: Vec<u8> = format!("line {seq}: käse ☃ \u{1F980} {}\n", "x".repeat((seq % 97) as usize)).into_bytes();
            let data =
                if seq % 7 == 0 { data[..data.len() - 3].iter().copied().chain([0xff, 0x00, 0x1b]).collect() } else { data };
            let offset = written.len() as u64;
            world.store.append_log(&claim, &[chunk(seq, offset, Stream::Stdout, &data)]).await.expect("the log grows");
            written.extend(data);
        }
        world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    });
    assert_eq!(read.0.expect("the log ends"), Exit::Done);
    assert!(read.1 == written, "{} bytes read, {} written", read.1.len(), written.len());
    assert_eq!(broken.load(Ordering::SeqCst), 4, "the connections did break");
    world.close().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_next_step() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let client = Client::http(&format!("http://{address}")).expect("an address");
    let (ended, _) = cli(&client, &["jobs"]).await;
    let error = ended.expect_err("nobody listens");
    assert_eq!(error.exit(), Exit::Unreachable);
    let said = error.to_string().replace(&address.to_string(), "[address]");
    insta::assert_snapshot!(said, @"cannot reach the server at http://[address]; check --server, or start it with: sawmill serve");
    for url in ["localhost:port", "ftp://localhost", "http://"] {
        let error = Client::http(url).err().expect("it is no address of a server");
        assert_eq!(error.exit(), Exit::Usage, "{url}: {error}");
    }
}

#[tokio::test]
async fn commands_over_http_do_what_they_do_in_process() {
    let world = World::on_sqlite().await;
    let server = serve(&world).await;
    let client = Client::http(&format!("http://{server}/")).expect("an address");
    let (ended, written) = cli(&client, &["enqueue", "--project", "app", "--", "true"]).await;
    assert_eq!(ended.expect("it is enqueued"), Exit::Done);
    let id = String::from_utf8(written).expect("text").trim().to_owned();
    let (_, over_http) = cli(&client, &["--json", "job", "show", &id]).await;
    let (_, in_process) = world.cli(&["--json", "job", "show", &id]).await;
    assert_eq!(String::from_utf8(over_http).expect("text"), in_process);
    let (ended, _) = cli(&client, &["job", "show", "018f0000-0000-7000-8000-000000000000"]).await;
    assert_eq!(ended.expect_err("there is none").exit(), Exit::NotFound);
    world.close().await;
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_stops_although_somebody_reads() {
    let world = World::on_sqlite().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let stop: CancellationToken = world.shutdown.clone();
    let serving = tokio::spawn(sawmill::api::serve(listener, world.router.clone(), Duration::from_secs(60), stop.clone()));
    let mut reader = TcpStream::connect(address).await.expect("the server listens");
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    reader.write_all(request.as_bytes()).await.expect("the request goes out");
    let mut first = [0; 12];
    reader.read_exact(&mut first).await.expect("the answer begins");
    assert_eq!(&first, b"HTTP/1.1 200");
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await.expect("it stops at once, not after the drain");
    ended.expect("no panic").expect("no failure");
    world.close().await;
}
