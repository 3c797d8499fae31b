//! Which addresses nobody means who speaks of the internet: private, link-local, special, this host's own, and those at which
//! clouds hand out credentials.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

/// What is closed unless the operator lists it by its address. From IANA's registries of special-purpose addresses; of IPv6 all but
/// `2000::/3`, which is all that is given out, and in that what embeds an IPv4 address or names none. Metadata services: 169.254.169.254 and
/// fd00:ec2::254 are in these, as are 100.100.100.200 and 192.0.0.192; 168.63.129.16 is Azure's and would else be public.
pub(in super::super) const CLOSED: [&str; 22] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "4000::/2",
    "8000::/1",
];

/// Whether an address is of the internet at large. It may still be one of this host's own.
pub(super) fn is_public(address: IpAddr) -> bool {
    !CLOSED.iter().any(|net| net.parse::<IpNet>().is_ok_and(|net| net.contains(&address)))
}

/// The addresses of this host's devices, now.
///
/// # Errors
/// The system does not say.
pub(in super::super) fn own() -> nix::Result<Vec<IpAddr>> {
    let of_device = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(getifaddrs()?.filter_map(|device| of_device(device.address?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_out_to_the_world_is_public() {
        assert!(
            CLOSED.iter().all(|net| net.parse::<IpNet>().is_ok_and(|parsed| parsed.trunc() == parsed)),
            "a network is malformed"
        );
        let check = |text: &str, expected: bool| assert_eq!(is_public(text.parse().expect("an address")), expected, "{text}");
        for public in ["1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "223.255.255.255", "2606:4700::1111"] {
            check(public, true);
        }
        for closed in [
            "169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "10.0.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
        ] {
            check(closed, false);
        }
    }
}
