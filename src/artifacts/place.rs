//! Where artifacts are kept: a directory, or a bucket that is spoken to as S3 is.
//!
//! The one rule: every object's key begins with its job and attempt, so that no attempt ever writes over what another one has kept.
//! A place has an id. A directory keeps its own in a file, so that it is told from one of the same path on another host.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use super::config::{Config, StoreAddress};
use crate::ids::{AttemptNo, JobId};

/// The file with a directory's id.
const ID: &str = "place";
/// For how long a request to a bucket is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// An object, piece by piece.
pub type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// Where artifacts are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Artifacts {
    config: Config,
    home: Home,
    bucket: Arc<Mutex<Option<Arc<dyn ObjectStore>>>>,
}

#[derive(Debug, Clone)]
enum Home {
    Directory(PathBuf),
    Bucket { bucket: String, prefix: String, options: Vec<(String, String)> },
}

/// A place in which artifacts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its id: the same for everybody who reaches it.
    pub id: String,
    /// Where it is, for people.
    pub at: String,
}

/// Why an artifact cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactsError {
    /// The place does not have it.
    #[error("{at} has no object {key}")]
    Gone {
        /// The place, for people.
        at: String,
        /// The object.
        key: String,
    },
    /// The place does not do what is asked of it.
    #[error("cannot use {at}: {cause}")]
    Away {
        /// The place, for people.
        at: String,
        /// What it says.
        cause: String,
    },
}

impl Artifacts {
    /// Where the configuration says that artifacts are kept. Nothing is asked or made yet. The credentials of a bucket, and where its
    /// server is, are the variables `AWS_…` of the environment.
    #[must_use]
    pub fn new(config: &Config, state_dir: &Path, environment: &BTreeMap<String, String>) -> Self {
        let home = match &config.store {
            StoreAddress::State => Home::Directory(state_dir.join("artifacts")),
            StoreAddress::Directory(path) => Home::Directory(path.clone()),
            StoreAddress::Bucket { bucket, prefix } => Home::Bucket {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                options: environment
                    .iter()
                    .filter(|(name, _)| name.starts_with("AWS_"))
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                    .collect(),
            },
        };
        Self { config: config.clone(), home, bucket: Arc::default() }
    }

    /// The limits.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is, for people.
    #[must_use]
    pub fn at(&self) -> String {
        match &self.home {
            Home::Directory(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let host =
                    nix::unistd::gethostname().map_or_else(|_| "this host".into(), |name| name.to_string_lossy().into_owned());
                format!("{} on {host}", path.display())
            }
            Home::Bucket { .. } => self.config.store.clone().into(),
        }
    }

    /// The place, for whoever is about to write: a directory is made that is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn place(&self) -> Result<Place, ArtifactsError> {
        if let Home::Directory(path) = &self.home {
            make(path).map_err(|error| self.away(&error))?;
        }
        let known = self.known_place()?;
        known.ok_or_else(|| self.away(&io::Error::from(io::ErrorKind::NotFound)))
    }

    /// The place, for whoever is about to read; nothing where there is no such directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn known_place(&self) -> Result<Option<Place>, ArtifactsError> {
        let id = match &self.home {
            Home::Directory(path) => match std::fs::read_to_string(path.join(ID)) {
                Ok(id) => id.trim().to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(self.away(&error)),
            },
            Home::Bucket { options, .. } => {
                let server = options.iter().find(|(name, _)| name == "aws_endpoint" || name == "aws_endpoint_url");
                let server = server.map_or(String::new(), |(_, url)| format!(" at {url}"));
                format!("{}{server}", self.at())
            }
        };
        Ok(Some(Place { id, at: self.at() }))
    }

    /// The key of an attempt's object: with its number, and of its name what any place can have.
    #[must_use]
    pub fn key(job: JobId, attempt: AttemptNo, number: usize, name: &str) -> String {
        let last = name.rsplit('/').next().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
        let last: String = last.chars().map(plain).take(80).collect();
        format!("{job}/{attempt}/{number:03}-{last}")
    }

    /// Keeps the file at `from` under a key, in place of what an earlier try left there. When this returns it is safe.
    ///
    /// # Errors
    /// The place does not take it.
    pub async fn put(&self, key: &str, from: &Path) -> Result<(), ArtifactsError> {
        let store = self.store()?;
        let mut file = tokio::fs::File::open(from).await.map_err(|error| self.away(&error))?;
        let mut writer = BufWriter::new(store, self.path(key));
        if let Err(error) = tokio::io::copy(&mut file, &mut writer).await {
            // What is left of it is swept with the rest of its attempt.
            drop(writer.abort().await);
            return Err(self.away(&error));
        }
        // One that fails here takes its parts back itself, and is not to be aborted any more.
        writer.shutdown().await.map_err(|error| self.away(&error))
    }

    /// An object, or a range of its bytes.
    ///
    /// # Errors
    /// It is gone, or the place cannot be asked.
    pub async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Pieces, ArtifactsError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.store()?.get_opts(&self.path(key), options).await {
            Ok(found) => Ok(found.into_stream().map_err(io::Error::other).boxed()),
            Err(object_store::Error::NotFound { .. }) => Err(ArtifactsError::Gone { at: self.at(), key: key.to_owned() }),
            Err(error) => Err(self.away(&error)),
        }
    }

    /// Removes all objects of an attempt, and says how many there were.
    ///
    /// # Errors
    /// The place cannot be asked; some may be gone.
    pub async fn remove_all(&self, job: JobId, attempt: AttemptNo) -> Result<u64, ArtifactsError> {
        let store = self.store()?;
        let prefix = self.path(&format!("{job}/{attempt}"));
        let mut objects = store.list(Some(&prefix));
        let mut removed = 0;
        while let Some(object) = objects.try_next().await.map_err(|error| self.away(&error))? {
            match store.delete(&object.location).await {
                Ok(()) => removed += 1,
                // Somebody else was faster.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.away(&error)),
            }
        }
        Ok(removed)
    }

    /// Writes a small object, reads it back and removes it.
    ///
    /// # Errors
    /// What the place does not do.
    pub async fn probe(&self) -> Result<(), ArtifactsError> {
        self.place()?;
        let (store, path) = (self.store()?, self.path(&format!("doctor-{}", Uuid::new_v4().simple())));
        let probing = async {
            store.put(&path, Bytes::from_static(b"probe").into()).await?;
            let read = store.get(&path).await?.bytes().await;
            // Also where it cannot be read.
            store.delete(&path).await?;
            read
        };
        let read = probing.await.map_err(|error| self.away(&error))?;
        if read.as_ref() == b"probe" { Ok(()) } else { Err(self.away(&io::Error::from(io::ErrorKind::InvalidData))) }
    }

    fn path(&self, key: &str) -> object_store::path::Path {
        match &self.home {
            Home::Bucket { prefix, .. } if !prefix.is_empty() => format!("{prefix}/{key}").into(),
            _ => key.into(),
        }
    }

    fn store(&self) -> Result<Arc<dyn ObjectStore>, ArtifactsError> {
        match &self.home {
            Home::Directory(path) => {
                let store = LocalFileSystem::new_with_prefix(path).map_err(|error| self.away(&error))?;
                Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
            }
            Home::Bucket { bucket, options, .. } => {
                let mut made = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(store) = &*made {
                    return Ok(store.clone());
                }
                let store = open_bucket(bucket, options).map_err(|error| self.away(&error))?;
                Ok(made.insert(store).clone())
            }
        }
    }

    fn away(&self, error: &dyn std::error::Error) -> ArtifactsError {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let next = error.to_string();
            if !cause.contains(&next) {
                cause = format!("{cause}: {next}");
            }
            source = error.source();
        }
        ArtifactsError::Away { at: self.at(), cause }
    }
}

fn open_bucket(bucket: &str, options: &[(String, String)]) -> object_store::Result<Arc<dyn ObjectStore>> {
    // An error means that one is installed already; all of this program's are the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 5, retry_timeout: RETRY };
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry);
    for (name, value) in options {
        // The environment has variables of other programs that begin the same.
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    // Whatever the variables name: the configuration has the last word.
    Ok(Arc::new(builder.with_bucket_name(bucket).build()?))
}

/// Makes a directory for artifacts with its id, unless it is there.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if path.join(ID).symlink_metadata().is_ok() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // Whole at once, and only one of those who come at the same time.
    let mut draft = tempfile::NamedTempFile::new_in(path)?;
    writeln!(draft, "{}", Uuid::new_v4())?;
    draft.as_file().sync_all()?;
    match draft.persist_noclobber(path.join(ID)) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}
