//! Which addresses may be asked. A URL may come from a param, a redirect or an answer: without this, whoever writes one could make haul ask the
//! machine it runs on, its network, or the metadata service of its cloud.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::failure::Failure;

/// What a connection may reach.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// Addresses that are not public as well.
    allow_private: bool,
    /// The host that the connection's own URL names, when it is this machine by its very name: it may be reached at loopback addresses.
    this_machine: Option<String>,
}

/// The address behind a name may not be asked.
#[derive(Debug)]
pub(super) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is an address of this machine or of a private network", self.0)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// What a run sees of it.
    pub(super) fn failure(&self) -> Failure {
        Failure::permanent(self.to_string()).help("set `allow_private: true` on the connection when that is meant")
    }
}

impl Guard {
    /// Of a connection to this URL.
    pub(super) fn new(base: &Url, allow_private: bool) -> Self {
        let own = match base.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        Self { allow_private, this_machine: base.host_str().filter(|_| own).map(str::to_owned) }
    }

    /// Checks a URL that names an address by its number, which no resolver sees.
    pub(super) fn check(&self, url: &Url) -> Result<(), Failure> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            _ => return Ok(()),
        };
        let host = url.host_str().unwrap_or_default();
        if self.allows(host, address) { Ok(()) } else { Err(Refused(host.to_owned()).failure()) }
    }

    fn allows(&self, host: &str, address: IpAddr) -> bool {
        let loopback = address.to_canonical().is_loopback();
        self.allow_private || is_public(address) || (loopback && self.this_machine.as_deref() == Some(host))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            let (allowed, refused): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.into_iter().partition(|address| guard.allows(name, address.ip()));
            if allowed.is_empty() && !refused.is_empty() {
                return Err(Refused(name.to_owned()).into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether an address can be one of the public internet: the special-purpose registries of IANA name those that cannot.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let parts = address.segments();
            // Ways to write an IPv4 address: NAT64 and 6to4.
            let inside = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
            match parts {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => is_public_v4(inside(high, low)),
                _ => is_public_v6(address),
            }
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Everything that is given out for the internet lies in 2000::/3.
    address.segments()[0] & 0xe000 == 0x2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_known() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
        for public in ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
    }

    #[test]
    fn this_machine_is_reached_by_its_own_name_only() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let guard = Guard::new(&url("http://127.0.0.1:8080/v1"), false);
        assert!(guard.check(&url("http://127.0.0.1:9090/")).is_ok());
        assert!(guard.check(&url("http://127.0.0.2/")).is_err());
        assert!(guard.check(&url("http://10.0.0.1/")).is_err());
        let guard = Guard::new(&url("https://api.example.com"), false);
        for refused in ["http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest", "http://2130706433/", "http://0x7f.1/"] {
            assert!(guard.check(&url(refused)).is_err(), "{refused}");
        }
        assert!(guard.check(&url("https://1.1.1.1/")).is_ok());
        assert!(Guard::new(&url("https://api.example.com"), true).check(&url("http://10.0.0.1/")).is_ok());
    }
}
