//! Hosts on a network of their own: each a network namespace, all on one switch, whose cables can be pulled.

use std::net::Ipv4Addr;
use std::process::Command;

use uuid::Uuid;

/// Some hosts and a switch between them. It is gone, with all its parts, when this goes.
pub(super) struct Network {
    name: String,
    hosts: Vec<&'static str>,
}

impl Network {
    /// Connects hosts of these names.
    pub(super) fn of(hosts: &[&'static str]) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let network = Self { name: format!("sawmill-{}", &id[..8]), hosts: hosts.to_vec() };
        let switch = network.namespace("switch");
        add_namespace(&switch);
        ip(&["-n", &switch, "link", "add", "switch", "up", "type", "bridge"]);
        for host in hosts {
            let namespace = network.namespace(host);
            add_namespace(&namespace);
            ip(&["link", "add", "cable", "netns", &namespace, "type", "veth", "peer", "name", host, "netns", &switch]);
            ip(&["-n", &switch, "link", "set", "dev", host, "master", "switch", "up"]);
            let address = format!("{}/24", network.address(host));
            ip(&["-n", &namespace, "address", "add", &address, "dev", "cable"]);
            ip(&["-n", &namespace, "link", "set", "cable", "up"]);
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        }
        network
    }

    pub(super) fn address(&self, host: &str) -> Ipv4Addr {
        let at = self.hosts.iter().position(|one| *one == host).expect("a host of this network");
        Ipv4Addr::new(10, 77, 0, u8::try_from(at + 1).expect("few"))
    }

    /// What a program is started with to run on that host.
    pub(super) fn prefix(&self, host: &str) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace(host))]
    }

    /// Pulls the cable of a host out of the switch. Nobody is told: what is sent vanishes.
    pub(super) fn cut(&self, host: &str) {
        ip(&["-n", &self.namespace("switch"), "link", "set", "dev", host, "nomaster"]);
    }

    /// Puts the cable back.
    pub(super) fn heal(&self, host: &str) {
        ip(&["-n", &self.namespace("switch"), "link", "set", "dev", host, "master", "switch"]);
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().chain(&["switch"]) {
            // A namespace that was never made cannot go.
            Command::new("ip").args(["netns", "delete", &self.namespace(host)]).output().ok();
        }
    }
}

fn add_namespace(name: &str) {
    let output = Command::new("ip").args(["netns", "add", name]).output().expect(
        "the program ip is not installed: run the tests with `make test`, which installs iproute2 or says what is missing",
    );
    assert!(
        output.status.success(),
        "cannot make a network namespace: {}; the partition tests need root with CAP_SYS_ADMIN and CAP_NET_ADMIN: run them \
         as root, in a container with --privileged",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip runs");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
}
