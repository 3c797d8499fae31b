//! Closing what is not public to a container that has a bridge: a packet filter in its own network namespace, set from outside before
//! any job is in it. The job has no capability, so it can neither see nor change it; nothing of the host's own filter is touched.
//!
//! The one rule: a container whose filter could not be set whole is not used.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};

use super::error::ContainerError;
use crate::sandbox::Supervisor;
use crate::sandbox::egress::{CLOSED, Rule, Rules, own};

/// What sets a filter, whole or not at all: one for each version of the protocol. Docker itself needs them for its bridges.
const RESTORE: [&str; 2] = ["iptables-restore", "ip6tables-restore"];

/// It is there where the namespace has IPv6 at all.
const HAS_V6: &str = "/proc/thread-self/net/if_inet6";

/// Closes a container whose supervisor this is to all that is not public, but for what is listed by address.
pub(super) async fn close(supervisor: &Supervisor, rules: &Rules) -> Result<(), ContainerError> {
    let pid = supervisor.pid().await?;
    let open = |why: String| ContainerError::Open { why };
    let own = own().map_err(|error| open(format!("the addresses of this host are not known: {error}")))?;
    let filters = [filter(rules, &own, Family::V4), filter(rules, &own, Family::V6)];
    let set = tokio::task::spawn_blocking(move || {
        // A thread of its own: it is in the container's namespace to its end.
        let thread = std::thread::spawn(move || set(pid, &filters));
        thread.join().unwrap_or_else(|_| Err("the thread that sets it panicked; please report it as a defect".to_owned()))
    });
    set.await.unwrap_or_else(|error| Err(error.to_string())).map_err(open)
}

fn set(pid: i32, filters: &[String; 2]) -> Result<(), String> {
    let place = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&place).map_err(|error| format!("{place}: {error}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| format!("{place}: {error}"))?;
    let programs = if Path::new(HAS_V6).exists() { &RESTORE[..] } else { &RESTORE[..1] };
    for (program, filter) in programs.iter().zip(filters) {
        restore(program, filter).map_err(|error| format!("{program}: {error}"))?;
    }
    Ok(())
}

fn restore(program: &str, filter: &str) -> io::Result<()> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    // Who ends early says why.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(filter.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    written
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, net: &IpNet) -> bool {
        matches!((self, net), (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_)))
    }
}

/// The filter, in the format of iptables-save(8).
fn filter(rules: &Rules, own: &[IpAddr], family: Family) -> String {
    let mut text =
        String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -o lo -j ACCEPT\n");
    let mut line = |rest: std::fmt::Arguments<'_>| writeln!(text, "-A OUTPUT {rest}").unwrap_or(());
    if family == Family::V6 {
        // Without these there is no IPv6: neighbours are asked at link-local addresses.
        for kind in ["router-solicitation", "neighbour-solicitation", "neighbour-advertisement"] {
            line(format_args!("-p ipv6-icmp --icmpv6-type {kind} -j ACCEPT"));
        }
    }
    for (net, ports) in rules.iter().filter_map(Rule::addresses).filter(|(net, _)| family.has(net)) {
        if ports.is_empty() {
            line(format_args!("-d {net} -j ACCEPT"));
        }
        for port in ports {
            line(format_args!("-d {net} -p tcp --dport {port} -j ACCEPT"));
            line(format_args!("-d {net} -p udp --dport {port} -j ACCEPT"));
        }
    }
    let closed = CLOSED.iter().filter_map(|net| net.parse().ok());
    for net in closed.chain(own.iter().copied().map(IpNet::from)).filter(|net| family.has(net)) {
        line(format_args!("-d {net} -j REJECT"));
    }
    text.push_str("COMMIT\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_comes_before_what_is_closed() {
        let rules: Rules = ["10.1.2.3:53", "a.b", "[fd00::1]:*"].iter().map(|text| text.parse().expect("a rule")).collect();
        let own = ["9.9.9.9".parse().expect("an address"), "2a00::1".parse().expect("an address")];
        let check = |family: Family, accepted: &[&str], rejected: &[&str], foreign: &str| {
            let text = filter(&rules, &own, family);
            let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line} is missing:\n{text}"));
            for before in accepted {
                assert!(rejected.iter().all(|after| at(before) < at(after)), "{text}");
            }
            assert!(!text.contains(foreign) && text.ends_with("COMMIT\n"), "{text}");
        };
        check(
            Family::V4,
            &["-d 10.1.2.3/32 -p tcp --dport 53 -j ACCEPT", "-d 10.1.2.3/32 -p udp --dport 53 -j ACCEPT"],
            &["-d 10.0.0.0/8 -j REJECT", "-d 169.254.0.0/16 -j REJECT", "-d 9.9.9.9/32 -j REJECT"],
            "fd00",
        );
        check(Family::V6, &["-d fd00::1/128 -j ACCEPT"], &["-d 8000::/1 -j REJECT", "-d 2a00::1/128 -j REJECT"], "10.1.2.3");
    }
}
