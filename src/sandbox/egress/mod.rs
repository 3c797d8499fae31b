//! What a job without a network of its own reaches all the same: what the operator lists, through a proxy of the daemon's.
//!
//! The container of such a job has no device but `lo`. Its supervisor listens there and hands the listening socket over; the daemon
//! accepts on it, outside. So there is no way but through here, whatever image or program it is, no firewall is touched, no
//! privilege is needed, and a listener that the supervisor keeps outlives a daemon that is restarted.
//!
//! The one rule: who asks for a name is answered by what is listed before the name is looked up, and by what the name means after;
//! what was checked is what is connected to.

mod address;
mod proxy;
mod rule;

pub(super) use address::{CLOSED, own};
pub use proxy::{Proxy, Refused, Why};
pub use rule::{Rule, RuleError, Rules};
