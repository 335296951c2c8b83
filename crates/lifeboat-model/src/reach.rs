//! Which addresses this host connects to because another party has named them: a client of the management API that wants
//! indications, or a peer that says where it takes calls. Both could name a service that only this host can reach. Names
//! are not resolved here; what they lead to is judged, each time a connection is made.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Most entries of a list.
pub const ENTRIES_MAX: usize = 256;

/// Why this host does not connect to an address that another party has named, whatever lists say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {
    /// This host itself (RFC 1122, RFC 4291).
    Loopback,
    /// Hosts on the same network segment; services that give a machine its secrets are there (RFC 3927, RFC 4291).
    LinkLocal,
    /// Many hosts (RFC 5771, RFC 4291) or all of them.
    Multicast,
    /// No address of a host: unspecified, or reserved (RFC 6890).
    NoHost,
}

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast or broadcast address",
            Self::NoHost => "not an address of a host",
        })
    }
}

fn never_v4(address: Ipv4Addr) -> Option<Never> {
    let [first, ..] = address.octets();
    if address.is_loopback() {
        Some(Never::Loopback)
    } else if address.is_link_local() {
        Some(Never::LinkLocal)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(Never::Multicast)
    } else if first == 0 || first >= 240 {
        // Linux takes 0.0.0.0 for this host.
        Some(Never::NoHost)
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible (RFC 4291), of a translator (RFC 6052, RFC 8215),
/// 6to4 (RFC 3056) or Teredo (RFC 4380).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0) if g != 0 => Some(v4(g, h)),
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, ..) => Some(v4(g, h)),
        (0x2002, ..) => Some(v4(b, c)),
        (0x2001, 0, ..) => Some(v4(!g, !h)),
        _ => None,
    }
}

/// Why this address is never connected to when another party names it; `None` when lists decide.
#[must_use]
pub fn never(address: IpAddr) -> Option<Never> {
    match address {
        IpAddr::V4(address) => never_v4(address),
        IpAddr::V6(address) if address.is_loopback() => Some(Never::Loopback),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(Never::LinkLocal),
        IpAddr::V6(address) if address.is_multicast() => Some(Never::Multicast),
        IpAddr::V6(address) if address.to_bits() <= 0xffff => Some(Never::NoHost),
        IpAddr::V6(address) => embedded(address).and_then(never_v4),
    }
}

/// The host of `HOST:PORT` or of a URL, without the brackets of an IPv6 address and the dot of the root.
#[must_use]
pub fn bare_host(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host)
}

/// Whether a name means the host that resolves it (RFC 6761).
fn is_localhost(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.eq_ignore_ascii_case("localhost")
}

/// Why a host of replicas that is called `host` is not connected to at `address`. Written out, an address is what its
/// writer means; a name must not lead to this host or to the wire's own addresses, because the owner of the name
/// could point it there. `localhost` is no name of anybody else's.
///
/// # Errors
/// The kind of the address.
pub fn check_resolved(host: &str, address: IpAddr) -> Result<(), Never> {
    let host = bare_host(host);
    let meant = host.parse::<IpAddr>().is_ok();
    match never(address) {
        None => Ok(()),
        Some(_) if meant => Ok(()),
        Some(Never::Loopback) if is_localhost(host) => Ok(()),
        Some(why) => Err(why),
    }
}

/// Why an entry of a list cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Too many.
    #[error("more than {ENTRIES_MAX} entries; name networks instead of hosts")]
    TooMany,
    /// Neither of the three.
    #[error("\"{0}\" is no host name, address or network such as \"10.0.0.0/8\"")]
    Form(String),
    /// What is never connected to.
    #[error("\"{0}\" is {1}, and indications are never sent there")]
    Never(String, Never),
}

/// Where indications may be sent: hosts by name, addresses and networks that an administrator has listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    networks: Vec<IpNet>,
    names: Vec<String>,
    loopback: bool,
}

/// Why indications are not sent somewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Nothing is listed.
    #[error("this host sends indications nowhere; its administrator lists hosts and networks in {KEY}")]
    NothingListed,
    /// Something else is.
    #[error("this host is not listed; an administrator can add it or its network to {KEY}")]
    NotListed,
    /// The name is not known now, or leads to no address.
    #[error("the name cannot be resolved; a host that is listed by its network needs a name that can be")]
    NotResolved,
    /// An address that no list can admit, and why.
    #[error("this is {0}, and indications are never sent there")]
    Never(Never),
}

/// The key of the configuration that has the list.
const KEY: &str = "indication_destinations of [management]";

fn is_name(text: &str) -> bool {
    let label = |l: &str| {
        let inner = l
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&l.len()) && inner && !l.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl Destinations {
    /// Reads a list. Names are compared without regard to case, and stand for themselves alone.
    ///
    /// # Errors
    /// An entry that is none of the three, or means addresses that indications are never sent to.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, EntryError> {
        if entries.len() > ENTRIES_MAX {
            return Err(EntryError::TooMany);
        }
        let mut list = Self::default();
        for entry in entries {
            let entry = entry.as_ref();
            let shown = || entry.chars().take(100).collect::<String>();
            let network = entry.parse::<IpNet>().ok();
            let network = network.or_else(|| bare_host(entry).parse::<IpAddr>().ok().map(IpNet::from));
            if let Some(network) = network {
                let first = never(network.network());
                // What holds for the first and the last address of one kind holds between them.
                match first.filter(|f| never(network.broadcast()) == Some(*f)) {
                    Some(why) => return Err(EntryError::Never(shown(), why)),
                    None => list.networks.push(network.trunc()),
                }
            } else if is_localhost(bare_host(entry)) {
                return Err(EntryError::Never(shown(), Never::Loopback));
            } else if is_name(bare_host(entry)) && entry.contains(|c: char| c.is_ascii_alphabetic()) {
                list.names.push(bare_host(entry).to_owned());
            } else {
                return Err(EntryError::Form(shown()));
            }
        }
        Ok(list)
    }

    /// The same, and this host itself, by `http` as well. No list can say so: it is for test programs, whose listeners are
    /// in the same process.
    #[must_use]
    pub fn and_loopback(self) -> Self {
        Self {
            loopback: true,
            ..self
        }
    }

    /// Whether this host itself is reached, which only test programs say.
    #[must_use]
    pub fn has_loopback(&self) -> bool {
        self.loopback
    }

    fn is_named(&self, host: &str) -> bool {
        let host = bare_host(host);
        self.names.iter().any(|n| n.eq_ignore_ascii_case(host))
    }

    /// What can be said of a host before its name is resolved; `Ok` is said for good by [`Destinations::admits`] alone.
    ///
    /// # Errors
    /// Whatever the name leads to, it is not admitted.
    pub fn may_admit(&self, host: &str) -> Result<(), NotAdmitted> {
        if let Ok(address) = bare_host(host).parse() {
            return self.admits(host, address);
        }
        if self.loopback || self.is_named(host) || !self.networks.is_empty() {
            return Ok(());
        }
        Err(if self.names.is_empty() {
            NotAdmitted::NothingListed
        } else {
            NotAdmitted::NotListed
        })
    }

    /// Whether indications for `host` may be sent to this address, which it resolves to now.
    ///
    /// # Errors
    /// They may not.
    pub fn admits(&self, host: &str, address: IpAddr) -> Result<(), NotAdmitted> {
        match never(address) {
            Some(Never::Loopback) if self.loopback => return Ok(()),
            Some(why) => return Err(NotAdmitted::Never(why)),
            None => {}
        }
        let plain = address.to_canonical();
        if self.is_named(host) || self.networks.iter().any(|n| n.contains(&plain)) {
            return Ok(());
        }
        Err(if self.networks.is_empty() && self.names.is_empty() {
            NotAdmitted::NothingListed
        } else {
            NotAdmitted::NotListed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_spelling_of_what_is_never_reached_is_known() {
        use Never::{LinkLocal, Loopback, Multicast, NoHost};
        for (text, want) in [
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:0:127.0.0.1", Loopback),
            ("::127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("64:ff9b:1::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("2001:0:1::80ff:fffe", Loopback),
            ("169.254.169.254", LinkLocal),
            ("::ffff:a9fe:a9fe", LinkLocal),
            ("64:ff9b::a9fe:a9fe", LinkLocal),
            ("2002:a9fe:a9fe::1", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf:ffff::1", LinkLocal),
            ("224.0.0.1", Multicast),
            ("::ffff:224.0.0.251", Multicast),
            ("255.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("0.0.0.0", NoHost),
            ("0.1.2.3", NoHost),
            ("240.0.0.1", NoHost),
            ("::", NoHost),
            ("::ffff:0.0.0.0", NoHost),
        ] {
            assert_eq!(never(ip(text)), Some(want), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.0.2.1",
            "128.0.0.1",
            "169.253.0.1",
            "2001:db8::1",
            "fd00::1",
            "fec0::1",
            "2002:a00:1::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(never(ip(text)), None, "{text}");
        }
    }

    #[test]
    fn a_list_holds_names_addresses_and_networks_that_can_be_reached() {
        let good = [
            "10.0.0.0/8",
            "192.0.2.7",
            "[fd00::1]",
            "fd01::/16",
            "nms.example.org",
            "0.0.0.0/0",
        ];
        Destinations::parse(&good).unwrap();
        for bad in [
            "",
            "*",
            "*.example.org",
            "10.0.0.0/33",
            "10.1",
            "2130706433",
            "https://nms",
            "nms:443",
            "a b",
            "a..b",
        ] {
            let error = Destinations::parse(&[bad]).unwrap_err();
            assert!(matches!(error, EntryError::Form(_)), "{bad}: {error}");
        }
        for bad in [
            "127.0.0.1",
            "127.1.0.0/16",
            "::1",
            "[::1]",
            "localhost",
            "LOCALHOST.",
            "x.localhost",
            "169.254.169.254",
            "169.254.0.0/16",
            "fe80::/10",
            "::ffff:127.0.0.1",
            "::ffff:127.0.0.0/104",
            "224.0.0.0/4",
            "0.0.0.0",
        ] {
            let error = Destinations::parse(&[bad]).unwrap_err();
            assert!(matches!(error, EntryError::Never(..)), "{bad}: {error}");
        }
        let many = vec!["a.example.org"; ENTRIES_MAX + 1];
        assert_eq!(Destinations::parse(&many), Err(EntryError::TooMany));
    }

    #[test]
    fn what_a_name_leads_to_decides() {
        let list = Destinations::parse(&["10.0.0.0/8", "fd00::/8", "NMS.example.org"]).unwrap();
        for (host, address) in [
            ("10.1.2.3", "10.1.2.3"),
            ("[fd00::3]", "fd00::3"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("anything.example.org", "10.9.9.9"),
            ("nms.EXAMPLE.org.", "192.0.2.1"),
        ] {
            assert_eq!(list.may_admit(host), Ok(()), "{host}");
            assert_eq!(list.admits(host, ip(address)), Ok(()), "{host}");
        }
        for (host, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("other.example.org", "192.0.2.1"),
            ("nms.example.org.evil.example", "192.0.2.1"),
            ("11.0.0.1", "11.0.0.1"),
        ] {
            assert_eq!(
                list.admits(host, ip(address)),
                Err(NotAdmitted::NotListed),
                "{host}"
            );
        }
        // A name that was good when the listener was made, and leads elsewhere when there is something to tell.
        let all = Destinations::parse(&["0.0.0.0/0", "::/0", "nms.example.org"]).unwrap();
        for address in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "fe80::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
        ] {
            for list in [&list, &all] {
                let refused = list.admits("nms.example.org", ip(address));
                assert!(matches!(refused, Err(NotAdmitted::Never(_))), "{address}");
            }
        }
        let none = Destinations::default();
        for host in ["nms.example.org", "10.0.0.1"] {
            let refused = none.may_admit(host).unwrap_err();
            assert_eq!(refused, NotAdmitted::NothingListed);
            assert!(refused.to_string().contains("indication_destinations"));
        }
        let tests = Destinations::default().and_loopback();
        assert_eq!(tests.admits("localhost", ip("127.0.0.1")), Ok(()));
        assert!(tests.admits("x", ip("169.254.1.1")).is_err());
        assert!(tests.admits("x", ip("10.0.0.1")).is_err());
    }

    #[test]
    fn a_peers_name_does_not_lead_to_this_host() {
        for (host, address) in [
            ("beta.example.org", "10.0.0.2"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("localhost", "127.0.0.1"),
            ("169.254.7.7", "169.254.7.7"),
        ] {
            assert_eq!(check_resolved(host, ip(address)), Ok(()), "{host}");
        }
        for (host, address) in [
            ("beta.example.org", "127.0.0.1"),
            ("beta.example.org", "::ffff:127.0.0.1"),
            ("beta.example.org", "169.254.169.254"),
            ("beta.example.org", "fe80::1"),
            ("beta.example.org", "0.0.0.0"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("localhost.example.org", "127.0.0.1"),
            ("localhost", "169.254.169.254"),
        ] {
            assert!(check_resolved(host, ip(address)).is_err(), "{host}");
        }
    }
}
