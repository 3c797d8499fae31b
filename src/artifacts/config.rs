//! The `[artifacts]` section of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::clock::human;

/// Where artifacts are kept, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where they are kept.
    pub store: StoreAddress,
    /// The largest file that is kept.
    pub file_size: ByteSize,
    /// The most that is kept of one attempt.
    pub attempt_size: ByteSize,
    /// The most files that are kept of one attempt.
    pub files: usize,
    /// How long keeping all files of an attempt may take.
    #[serde(with = "human")]
    pub timeout: Duration,
}

/// Where artifacts are kept, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreAddress {
    /// In the directory `artifacts` of the worker's state directory.
    State,
    /// In this directory.
    Directory(PathBuf),
    /// In a bucket that is spoken to as S3 is.
    Bucket {
        /// Its name.
        bucket: String,
        /// What the keys begin with; empty, or without slashes at its ends.
        prefix: String,
    },
}

impl TryFrom<String> for StoreAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::State);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() || bucket.contains(['?', '#', '@', ':']) {
                return Err(format!("{text:?} names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX"));
            }
            return Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() });
        }
        if text.starts_with('/') {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        Err(format!("{text:?} is neither an absolute path, nor s3://BUCKET/PREFIX, nor empty"))
    }
}

impl From<StoreAddress> for String {
    fn from(address: StoreAddress) -> Self {
        match address {
            StoreAddress::State => Self::new(),
            StoreAddress::Directory(path) => path.to_string_lossy().into_owned(),
            StoreAddress::Bucket { bucket, prefix } if prefix.is_empty() => format!("s3://{bucket}"),
            StoreAddress::Bucket { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_a_bucket_or_nothing() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let read = StoreAddress::try_from(text.to_owned()).map(String::from);
            assert_eq!(read.as_deref().map_err(String::as_str), expected);
        };
        check("", Ok(""));
        check("/var/lib/artifacts", Ok("/var/lib/artifacts"));
        check("s3://b", Ok("s3://b"));
        check("s3://b/a/c/", Ok("s3://b/a/c"));
        check("s3:///x", Err("\"s3:///x\" names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX"));
        check("here", Err("\"here\" is neither an absolute path, nor s3://BUCKET/PREFIX, nor empty"));
    }
}
