//! What the daemon and a supervisor say to each other: JSON in frames of bounded size over a Unix stream socket.
//!
//! A frame is its length (four bytes, big-endian) and that many bytes of JSON. The daemon asks, the supervisor answers
//! each request once and in order; only the answer to `wait` takes long. A start carries two or three descriptors
//! (output, error output, input) with its first byte, the answer to `listen` one (the listener). Whoever breaks the format loses the
//! connection, nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::command::{Activity, ExitReport, Held, Started, Status, Will};
use crate::clock::Timestamp;

/// Grows when an old daemon and a new supervisor would misunderstand each other.
pub(super) const VERSION: u32 = 3;

/// The largest frame. A kernel takes no single argument above 128 KiB, so no sensible command is larger.
pub(super) const MAX_FRAME: usize = 1024 * 1024;

/// The name of the socket in the supervisor's directory.
pub(super) const SOCKET: &str = "sock";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Says that the daemon lives, and optionally how long it may stay silent from now on.
    KeepAlive {
        orphan_after_ms: Option<u64>,
    },
    Start(Box<Order>),
    Status,
    Wait {
        id: String,
    },
    Stop {
        id: String,
    },
    /// Asks what the command does at this moment.
    Look {
        id: String,
    },
    /// Asks what files take that were deleted below a directory, as the job sees it, and that its processes hold open.
    Held {
        below: PathBuf,
    },
    /// Moves the deadline of the command.
    Deadline {
        id: String,
        at: Timestamp,
    },
    Collect {
        id: String,
    },
    /// Leaves a will for a command that another supervisor runs.
    Bequeath {
        id: String,
        will: Will,
    },
    /// Asks for a listener on the loopback device that the job sees: always the same one.
    Listen,
    Shutdown,
}

/// A command as it is sent; its files travel as descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: PathBuf,
    pub(super) grace_ms: u64,
    pub(super) deadline: Option<Timestamp>,
    pub(super) will: Option<Will>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Alive {
        version: u32,
        leaving: bool,
    },
    Started(Started),
    Status(Status),
    Report(ExitReport),
    Seen(Activity),
    Held(Held),
    /// The listener comes along as a descriptor.
    Listening,
    Done,
    Refused(Refusal),
}

/// Why a supervisor does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// One command at a time.
    #[error("it is busy with command {running}")]
    Busy {
        /// The one that runs.
        running: String,
    },
    /// It holds neither this command nor a report of it.
    #[error("it knows no command {id}")]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// An earlier supervisor died while this command ran; how it ended is not known.
    #[error("how command {id} ended is lost: the supervisor that ran it died")]
    Lost {
        /// The command.
        id: String,
    },
    /// The request makes no sense.
    #[error("the request is not valid: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
    /// Its daemon stayed away, or it was told to end: it takes no more commands.
    #[error("it is ending itself")]
    Leaving,
}

/// The frame of a message.
pub(super) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Json)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::Size(length));
    }
    let header = u32::try_from(length).map_err(|_| FrameError::Size(length))?;
    frame[..4].copy_from_slice(&header.to_be_bytes());
    Ok(frame)
}

/// Takes the first message from the front of what has arrived, when it is complete.
pub(super) fn decode<T: DeserializeOwned>(arrived: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(header) = arrived.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(FrameError::Size(length));
    }
    if arrived.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&arrived[4..4 + length]).map_err(FrameError::Json)?;
    arrived.drain(..4 + length);
    Ok(Some(message))
}

/// Bytes that are not a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a message of {0} bytes is larger than {MAX_FRAME}")]
    Size(usize),
    #[error("not a message of this protocol: {0}")]
    Json(serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_arrives_byte_by_byte_is_read_once_and_whole() {
        let mut sent = encode(&Request::Wait { id: "a".to_owned() }).expect("a frame");
        sent.extend(encode(&Request::Status).expect("a frame"));
        let (mut arrived, mut read) = (Vec::new(), Vec::new());
        for byte in sent {
            arrived.push(byte);
            read.extend(decode::<Request>(&mut arrived).expect("a frame"));
        }
        assert!(matches!(&read[..], [Request::Wait { id }, Request::Status] if id == "a"), "{read:?}");
        assert!(arrived.is_empty());
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_it_arrives() {
        assert!(matches!(decode::<Request>(&mut vec![0xff; 4]), Err(FrameError::Size(_))));
        let large = Request::Wait { id: "x".repeat(MAX_FRAME) };
        assert!(matches!(encode(&large), Err(FrameError::Size(_))));
    }

    #[test]
    fn what_is_not_json_or_has_an_unknown_key_is_refused() {
        for bad in ["{", "{\"status\":1}", "{\"wait\":{\"id\":\"a\",\"more\":1}}"] {
            let mut arrived = u32::try_from(bad.len()).expect("a frame").to_be_bytes().to_vec();
            arrived.extend(bad.as_bytes());
            assert!(matches!(decode::<Request>(&mut arrived), Err(FrameError::Json(_))), "{bad}");
        }
    }
}
