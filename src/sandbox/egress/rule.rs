//! `container.egress`: what jobs reach, as the operator writes it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Host;

use super::address;

/// The ports of a rule that names none.
const WEB: [u16; 2] = [80, 443];

/// One thing that jobs reach: `crates.io`, `*.npmjs.org:443`, `10.1.2.3:8080`, `10.1.0.0/16:*`, `[fd00::1]:53`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    target: Target,
    ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Whatever is public.
    Public,
    /// This very name.
    Name(String),
    /// All names below this one.
    Below(String),
    /// These addresses, public or not.
    Net(IpNet),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// Those of [`WEB`].
    Web,
    One(u16),
    All,
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is nothing that can be reached: {why}; write a name, *.name, an address, a network such as 10.1.0.0/16, or *, \
     each with :PORT or :* where 80 and 443 are not what is meant"
)]
pub struct RuleError {
    text: String,
    why: String,
}

impl Rule {
    fn lists_name(&self, name: &str, port: u16) -> bool {
        let is_it = match &self.target {
            Target::Public => true,
            Target::Name(listed) => name == listed,
            Target::Below(parent) => name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Target::Net(_) => false,
        };
        is_it && self.ports.have(port)
    }

    fn lists_address(&self, address: SocketAddr) -> bool {
        matches!(&self.target, Target::Net(net) if net.contains(&address.ip())) && self.ports.have(address.port())
    }

    /// The addresses that it lists, whether or not they are public, with the ports; all where there are none.
    pub(in super::super) fn addresses(&self) -> Option<(IpNet, Vec<u16>)> {
        let Target::Net(net) = self.target else { return None };
        let ports = match self.ports {
            Ports::Web => WEB.into(),
            Ports::One(port) => vec![port],
            Ports::All => Vec::new(),
        };
        Some((net, ports))
    }
}

impl Ports {
    fn have(self, port: u16) -> bool {
        match self {
            Self::Web => WEB.contains(&port),
            Self::One(one) => one == port,
            Self::All => true,
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = |why: &str| RuleError { text: text.to_owned(), why: why.to_owned() };
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(None) => return Err(wrong("a bracket is not closed")),
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, port))) => {
                (host, Some(port.strip_prefix(':').ok_or_else(|| wrong("a bracket is followed by :PORT"))?))
            }
            // An address of IPv6 has colons of its own.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let ports = match port {
            None => Ports::Web,
            Some("*") => Ports::All,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => Ports::One(port),
                _ => return Err(wrong("a port is a number from 1 to 65535")),
            },
        };
        let name = |text: &str| match Host::parse(text) {
            Ok(Host::Domain(name)) => Ok(plain(&name)),
            Ok(_) => Err(wrong("an address is written with four numbers")),
            Err(error) => Err(wrong(&error.to_string())),
        };
        let target = match host {
            "*" => Target::Public,
            _ => match (host.parse::<IpNet>(), host.parse::<IpAddr>()) {
                (Ok(net), _) if net.trunc() != net => return Err(wrong("a network has no bits beyond its prefix")),
                (Ok(net), _) => Target::Net(net),
                (_, Ok(address)) => Target::Net(address.into()),
                _ => match host.strip_prefix("*.") {
                    Some(parent) => Target::Below(name(parent)?),
                    None if host.contains('*') => return Err(wrong("* stands alone, or before the first dot")),
                    None => Target::Name(name(host)?),
                },
            },
        };
        Ok(Self { target, ports })
    }
}

/// A name as it is compared: names are in small letters already, and a dot at the end says nothing.
pub(super) fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Public => write!(f, "*")?,
            Target::Name(name) => write!(f, "{name}")?,
            Target::Below(parent) => write!(f, "*.{parent}")?,
            Target::Net(IpNet::V4(net)) => write!(f, "{net}")?,
            Target::Net(IpNet::V6(net)) => write!(f, "[{net}]")?,
        }
        match self.ports {
            Ports::Web => Ok(()),
            Ports::One(port) => write!(f, ":{port}"),
            Ports::All => write!(f, ":*"),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

/// All that jobs reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// Whether a name is listed with a port.
    pub(super) fn list_name(&self, name: &str, port: u16) -> bool {
        self.0.iter().any(|rule| rule.lists_name(name, port))
    }

    /// Whether an address is listed with its port.
    pub(super) fn list_address(&self, address: SocketAddr) -> bool {
        let public = |rule: &Rule| rule.target == Target::Public && rule.ports.have(address.port());
        self.0.iter().any(|rule| rule.lists_address(address)) || (is_open(address.ip()) && self.0.iter().any(public))
    }

    /// Whether a name that is listed may mean this address.
    pub(super) fn let_mean(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|rule| rule.lists_address(address)) || is_open(address.ip())
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<T: IntoIterator<Item = Rule>>(rules: T) -> Self {
        Self(rules.into_iter().collect())
    }
}

/// Public, and not this host's own. Where the system does not say which those are, nothing is.
fn is_open(ip: IpAddr) -> bool {
    address::is_public(ip) && address::own().is_ok_and(|own| !own.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        texts.iter().map(|text| text.parse::<Rule>().expect("a rule")).collect()
    }

    #[test]
    fn rules_are_read_and_written_alike() {
        let check =
            |text: &str, written: &str| assert_eq!(text.parse::<Rule>().map(String::from), Ok(written.to_owned()), "{text}");
        check("crates.io", "crates.io");
        check("Crates.IO.:443", "crates.io:443");
        check("*.npmjs.org:443", "*.npmjs.org:443");
        check("10.1.2.3:8080", "10.1.2.3/32:8080");
        check("10.1.0.0/16:*", "10.1.0.0/16:*");
        check("fd00::1", "[fd00::1/128]");
        check("[fd00::/8]:53", "[fd00::/8]:53");
        check("*", "*");
        check("*:*", "*:*");
        for bad in [
            "",
            "a b",
            "crates.io:0",
            "crates.io:x",
            "crates.io:70000",
            "10.1.2.3/8",
            "127.1",
            "a.*.b",
            "[fd00::1",
            "https://a.b",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_listed_by_itself_or_by_what_it_is_below() {
        let rules = rules(&["crates.io", "*.npmjs.org:443", "10.1.2.3:8080"]);
        let check = |name: &str, port: u16, expected: bool| assert_eq!(rules.list_name(name, port), expected, "{name}:{port}");
        check("crates.io", 443, true);
        check("crates.io", 80, true);
        check("crates.io", 22, false);
        check("static.crates.io", 443, false);
        check("evilcrates.io", 443, false);
        check("registry.npmjs.org", 443, true);
        check("a.b.npmjs.org", 443, true);
        check("registry.npmjs.org", 80, false);
        check("npmjs.org", 443, false);
        check("evilnpmjs.org", 443, false);
        check(".npmjs.org", 443, false);
    }

    #[test]
    fn an_address_that_is_not_public_is_reached_only_where_it_is_listed_as_one() {
        let check = |texts: &[&str], address: &str, expected: bool| {
            assert_eq!(rules(texts).list_address(address.parse().expect("an address")), expected, "{texts:?} {address}");
        };
        check(&["*"], "1.1.1.1:443", true);
        check(&["*"], "1.1.1.1:22", false);
        check(&["*:*"], "1.1.1.1:22", true);
        check(&["*:*"], "169.254.169.254:80", false);
        check(&["*:*"], "10.1.2.3:80", false);
        check(&["*:*"], "[fd00:ec2::254]:80", false);
        check(&["10.1.2.3:8080"], "10.1.2.3:8080", true);
        check(&["10.1.2.3:8080"], "10.1.2.3:80", false);
        check(&["10.1.0.0/16"], "10.1.9.9:80", true);
        check(&["crates.io"], "1.1.1.1:443", false);
        assert!(rules(&["a.b"]).let_mean("1.1.1.1:443".parse().expect("an address")));
        assert!(!rules(&["a.b", "*"]).let_mean("127.0.0.1:443".parse().expect("an address")), "which is rebinding");
    }
}
