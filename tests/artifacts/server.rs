//! A server that speaks S3, with its buckets as directories: it checks signatures, and can go away and come back.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::delivery::host::{Host, until};
use crate::torture::server::free_port;

pub(super) const BUCKET: &str = "shed";
pub(super) const SECRET: &str = "the-key-of-the-shed-0123456789";
const ID: &str = "AKIDOFTHESHED";

pub(super) struct Server {
    dir: PathBuf,
    port: u16,
    serving: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves what is in this directory: no bucket yet.
    pub(super) async fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let mut server = Self { dir: dir.to_owned(), port: free_port(), serving: None };
        server.come_back().await;
        server
    }

    /// Has whatever is started of this host from now on keep artifacts in the bucket, below `kept`.
    pub(super) fn configure(&self, host: &mut Host) {
        host.set("SAWMILL_ARTIFACTS__STORE", &format!("s3://{BUCKET}/kept"));
        host.set("AWS_ENDPOINT", &format!("http://127.0.0.1:{}", self.port));
        host.set("AWS_ALLOW_HTTP", "true");
        host.set("AWS_REGION", "us-east-1");
        host.set("AWS_ACCESS_KEY_ID", ID);
        host.set("AWS_SECRET_ACCESS_KEY", SECRET);
    }

    pub(super) fn make_bucket(&self) {
        fs::create_dir(self.dir.join(BUCKET)).expect("a new bucket");
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Where an object's bytes are.
    pub(super) fn object(&self, key: &str) -> PathBuf {
        self.dir.join(BUCKET).join("kept").join(key)
    }

    /// Cuts all connections; nobody listens any more.
    pub(super) async fn go_away(&mut self) {
        let serving = self.serving.take().expect("it is there");
        serving.abort();
        // Cancelled, that is.
        serving.await.ok();
    }

    /// Listens where it did.
    pub(super) async fn come_back(&mut self) {
        // Somebody may have it for a moment, as the end of a connection of his own.
        let mut listener = None;
        until("its port is free", async || {
            listener = TcpListener::bind(("127.0.0.1", self.port)).await.ok();
            listener.is_some()
        })
        .await;
        let listener = listener.expect("it is free");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(&self.dir).expect("a directory"));
        builder.set_auth(SimpleAuth::from_single(ID, SECRET));
        builder.set_access(Doorkeeper { dir: self.dir.clone() });
        self.serving = Some(tokio::spawn(serve(listener, builder.build())));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Lets nobody in without a signature, and knows which buckets there are: by itself the server makes one for the first object.
struct Doorkeeper {
    dir: PathBuf,
}

impl S3Access for Doorkeeper {
    fn check<'a, 'b, 'c, 'd>(
        &'a self,
        context: &'b mut S3AccessContext<'c>,
    ) -> Pin<Box<dyn Future<Output = S3Result<()>> + Send + 'd>>
    where
        Self: 'd,
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        let is_there = context.s3_path().get_bucket_name().is_some_and(|bucket| self.dir.join(bucket).is_dir());
        let answer = match (context.credentials(), is_there) {
            (None, _) => Err(s3_error!(AccessDenied, "a signature is required")),
            (Some(_), false) => Err(s3_error!(NoSuchBucket)),
            (Some(_), true) => Ok(()),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// Its connections end with it.
async fn serve(listener: TcpListener, service: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
        connections.spawn(async move { connection.await.ok() });
    }
}
