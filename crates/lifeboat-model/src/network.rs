//! What a VM's network cards become on the replica: which network they are connected to, and which addresses the guest
//! gets there (`Msvm_FailoverNetworkAdapterSettingData`). It writes the commands and documents that tell a guest, from
//! values that were understood; how they get into the guest is not its business.

use core::net::IpAddr;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::vm::{NicBackend, NicSpec};

/// One card after a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NicFailover {
    /// Which card, by its MAC address as the description of the VM has it.
    pub mac: String,
    /// Take the addresses from DHCP; then `addresses` must be empty.
    pub dhcp: bool,
    /// Static addresses of both families, each with its prefix length, for example `10.1.2.3/24`. Empty and no `dhcp`: the
    /// guest keeps what it had on the primary.
    pub addresses: Vec<String>,
    /// At most one gateway of each family.
    pub gateways: Vec<IpAddr>,
    /// Name servers, the preferred first.
    pub dns: Vec<IpAddr>,
    /// What the card is connected to on the replica's host when the VM is failed over; `None`: as the description says,
    /// but never to a tap of the primary's.
    pub backend: Option<NicBackend>,
    /// What it is connected to in a test; `None`: nothing.
    pub test_backend: Option<NicBackend>,
}

/// Most addresses, and most name servers, of a card.
pub const MOST: usize = 8;

/// What is wrong with the settings of a card; always the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A card the VM does not have.
    #[error("the VM has no network card {mac}; it has: {has}")]
    NoCard {
        /// What was given.
        mac: String,
        /// The cards it has.
        has: String,
    },
    /// Two entries for one card.
    #[error("card {0} is named twice: write one entry for each card")]
    Twice(String),
    /// Text that is no address with a prefix length, or an address no card can have.
    #[error(
        "card {mac}: \"{text}\" is not an address with its prefix length; write for example 10.1.2.3/24 or fd00::3/64"
    )]
    Address {
        /// The card.
        mac: String,
        /// What was given.
        text: String,
    },
    /// Something that DHCP would say differently.
    #[error("card {mac}: {what} cannot be set together with DHCP; leave one of them out")]
    Dhcp {
        /// The card.
        mac: String,
        /// Addresses or gateways.
        what: &'static str,
    },
    /// A gateway nothing leads to.
    #[error("card {mac}: gateway {gateway} needs an {family} address on this card")]
    Gateway {
        /// The card.
        mac: String,
        /// The gateway.
        gateway: IpAddr,
        /// Its family.
        family: &'static str,
    },
    /// Two gateways of one family.
    #[error("card {mac}: more than one {family} gateway")]
    Gateways {
        /// The card.
        mac: String,
        /// The family.
        family: &'static str,
    },
    /// Too many of something.
    #[error("card {mac}: {count} {what}: use at most {MOST}")]
    TooMany {
        /// The card.
        mac: String,
        /// Addresses or name servers.
        what: &'static str,
        /// How many were given.
        count: usize,
    },
    /// An address that cannot be a gateway or a name server.
    #[error("card {mac}: {address} cannot be a {what}")]
    Useless {
        /// The card.
        mac: String,
        /// The address.
        address: IpAddr,
        /// Gateway or name server.
        what: &'static str,
    },
    /// A backend that would not be one.
    #[error("card {mac}: {detail}")]
    Backend {
        /// The card.
        mac: String,
        /// What is wrong.
        detail: String,
    },
}

/// A program to be run in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestCommand {
    /// The program.
    pub program: &'static str,
    /// Its arguments. Values are arguments of their own or, on Windows, quoted words of an alphabet without quotes.
    pub arguments: Vec<String>,
}

/// The settings of a card as values.
struct Card {
    mac: String,
    mode: &'static str,
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    dns: Vec<IpAddr>,
}

impl NicFailover {
    /// Whether anything about this card has to be set in the guest.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.dhcp || !self.addresses.is_empty() || !self.dns.is_empty()
    }

    /// Whether these settings are for this card.
    #[must_use]
    pub fn is_for(&self, nic: &NicSpec) -> bool {
        self.mac.eq_ignore_ascii_case(&nic.mac)
    }

    fn card(&self) -> Result<Card, NetworkError> {
        let mac = self.mac.to_ascii_lowercase();
        let addresses: Result<Vec<_>, _> = self.addresses.iter().map(|a| address(&mac, a)).collect();
        Ok(Card {
            mode: match (self.dhcp, self.addresses.is_empty()) {
                (true, _) => "dhcp",
                (false, false) => "static",
                (false, true) => "keep",
            },
            addresses: addresses?,
            gateways: self.gateways.clone(),
            dns: self.dns.clone(),
            mac,
        })
    }

    fn validate(&self) -> Result<(), NetworkError> {
        let card = self.card()?;
        let mac = || card.mac.clone();
        let dhcp = |what| Err(NetworkError::Dhcp { mac: mac(), what });
        match (self.dhcp, self.addresses.is_empty(), self.gateways.is_empty()) {
            (true, false, _) => return dhcp("addresses"),
            (true, true, false) => return dhcp("gateways"),
            (true, true, true) | (false, _, _) => {}
        }
        for (what, count) in [
            ("addresses", self.addresses.len()),
            ("name servers", self.dns.len()),
        ] {
            if count > MOST {
                return Err(NetworkError::TooMany {
                    mac: mac(),
                    what,
                    count,
                });
            }
        }
        for (n, gateway) in card.gateways.iter().copied().enumerate() {
            let family = family(gateway);
            useful(&card.mac, gateway, "gateway")?;
            if card
                .gateways
                .iter()
                .take(n)
                .any(|g| g.is_ipv4() == gateway.is_ipv4())
            {
                return Err(NetworkError::Gateways { mac: mac(), family });
            }
            if card
                .addresses
                .iter()
                .all(|(a, _)| a.is_ipv4() != gateway.is_ipv4())
            {
                return Err(NetworkError::Gateway {
                    mac: mac(),
                    gateway,
                    family,
                });
            }
        }
        card.dns
            .iter()
            .try_for_each(|d| useful(&card.mac, *d, "name server"))?;
        for backend in [&self.backend, &self.test_backend].into_iter().flatten() {
            backend.validate().map_err(|e| NetworkError::Backend {
                mac: mac(),
                detail: e.to_string(),
            })?;
        }
        Ok(())
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn address(mac: &str, text: &str) -> Result<(IpAddr, u8), NetworkError> {
    let wrong = || NetworkError::Address {
        mac: mac.into(),
        text: text.chars().take(80).collect(),
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    // A number without sign and leading zeros, as other programs read it.
    let prefix: u8 = prefix
        .parse()
        .ok()
        .filter(|p: &u8| p.to_string() == prefix)
        .ok_or_else(wrong)?;
    let fits = (1..=most).contains(&prefix);
    let own = !(address.is_unspecified() || address.is_multicast() || address.is_loopback());
    (fits && own).then_some((address, prefix)).ok_or_else(wrong)
}

fn useful(mac: &str, address: IpAddr, what: &'static str) -> Result<(), NetworkError> {
    if address.is_unspecified() || address.is_multicast() {
        return Err(NetworkError::Useless {
            mac: mac.into(),
            address,
            what,
        });
    }
    Ok(())
}

/// Checks settings against the cards of the VM.
///
/// # Errors
/// The first thing that cannot be meant.
pub fn validate(cards: &[NicFailover], nics: &[NicSpec]) -> Result<(), NetworkError> {
    for (n, card) in cards.iter().enumerate() {
        let mac: String = card.mac.chars().take(40).collect();
        if !nics.iter().any(|nic| card.is_for(nic)) {
            let has: Vec<_> = nics.iter().map(|nic| nic.mac.as_str()).collect();
            let has = if has.is_empty() {
                "none".into()
            } else {
                has.join(", ")
            };
            return Err(NetworkError::NoCard { mac, has });
        }
        if cards
            .iter()
            .take(n)
            .any(|c| c.mac.eq_ignore_ascii_case(&card.mac))
        {
            return Err(NetworkError::Twice(mac));
        }
        card.validate()?;
    }
    Ok(())
}

/// The cards of a VM that is failed over.
#[must_use]
pub fn failed_over(nics: &[NicSpec], cards: &[NicFailover]) -> Vec<NicSpec> {
    connected(nics, |nic| {
        let set = cards
            .iter()
            .find(|c| c.is_for(nic))
            .and_then(|c| c.backend.clone());
        set.unwrap_or_else(|| nic.backend.clone())
    })
}

/// The cards of a test VM: connected to nothing but a network for tests.
#[must_use]
pub fn in_test(nics: &[NicSpec], cards: &[NicFailover]) -> Vec<NicSpec> {
    connected(nics, |nic| {
        let set = cards
            .iter()
            .find(|c| c.is_for(nic))
            .and_then(|c| c.test_backend.clone());
        set.unwrap_or_default()
    })
}

fn connected(nics: &[NicSpec], backend: impl Fn(&NicSpec) -> NicBackend) -> Vec<NicSpec> {
    let to = |nic: &NicSpec| NicSpec {
        backend: backend(nic),
        ..nic.clone()
    };
    nics.iter().map(to).collect()
}

fn cards(settings: &[NicFailover]) -> Result<Vec<Card>, NetworkError> {
    settings
        .iter()
        .filter(|c| c.tells())
        .map(NicFailover::card)
        .collect()
}

/// Looks for the card by its MAC address and sets it up; `sh -c` with the MAC address, the mode, and pairs of word and value.
const LINK_SH: &str = include_str!("network/link.sh");
/// Writes the name servers it is given to `resolv.conf`, unless a service owns that.
const RESOLVER_SH: &str = include_str!("network/resolver.sh");
/// The same for Windows: MAC address, mode, and three lists.
const LINK_PS1: &str = include_str!("network/link.ps1");

/// What gives a Linux guest its addresses, to be run in order as root. It can be repeated.
///
/// # Errors
/// Settings that `validate` refuses.
pub fn linux(settings: &[NicFailover]) -> Result<Vec<GuestCommand>, NetworkError> {
    let cards = cards(settings)?;
    let shell = |script: &str, values: Vec<String>| {
        let mut arguments = vec!["-c".to_owned(), script.to_owned(), "lifeboat".to_owned()];
        arguments.extend(values);
        GuestCommand {
            program: "/bin/sh",
            arguments,
        }
    };
    let mut all = Vec::new();
    let mut servers: Vec<String> = Vec::new();
    for card in &cards {
        let mut values = vec![card.mac.clone(), card.mode.to_owned()];
        let mut pair = |word: &str, value: String| values.extend([word.to_owned(), value]);
        card.addresses
            .iter()
            .for_each(|(a, p)| pair("address", format!("{a}/{p}")));
        card.gateways.iter().for_each(|g| pair("gateway", g.to_string()));
        card.dns.iter().for_each(|d| pair("dns", d.to_string()));
        all.push(shell(LINK_SH, values));
        for server in card.dns.iter().map(ToString::to_string) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    if !servers.is_empty() {
        all.push(shell(RESOLVER_SH, servers));
    }
    Ok(all)
}

/// What gives a Windows guest its addresses, to be run in order by the system's account. It can be repeated.
///
/// # Errors
/// Settings that `validate` refuses.
pub fn windows(settings: &[NicFailover]) -> Result<Vec<GuestCommand>, NetworkError> {
    let list = |values: Vec<String>| format!("'{}'", values.join(","));
    let command = |card: &Card| {
        let values = [
            format!("'{}'", card.mac.replace(':', "-").to_ascii_uppercase()),
            format!("'{}'", card.mode),
            list(card.addresses.iter().map(|(a, p)| format!("{a}/{p}")).collect()),
            list(card.gateways.iter().map(ToString::to_string).collect()),
            list(card.dns.iter().map(ToString::to_string).collect()),
        ];
        // PowerShell reads the script and what follows it as one text, hence the quotes.
        let script = format!("{} {}", LINK_PS1.trim_end(), values.join(" "));
        let fixed = [
            "-NoProfile",
            "-NonInteractive",
            "-ExecutionPolicy",
            "Bypass",
            "-Command",
        ];
        let arguments = fixed.iter().map(|a| (*a).to_owned()).chain([script]).collect();
        GuestCommand {
            program: "powershell.exe",
            arguments,
        }
    };
    Ok(cards(settings)?.iter().map(command).collect())
}

/// The files of a NoCloud seed for guests with cloud-init: name and content. `instance` must be new for each failover, or
/// cloud-init takes nothing; because a new instance makes it renew more than addresses, it is configured to keep the rest.
///
/// # Errors
/// Settings that `validate` refuses.
pub fn no_cloud(settings: &[NicFailover], instance: &str) -> Result<Vec<(String, String)>, NetworkError> {
    let cards = cards(settings)?;
    if cards.is_empty() {
        return Ok(Vec::new());
    }
    let mut network = String::from("version: 2\nethernets:\n");
    for (n, card) in cards.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(
            network,
            "  nic{n}:\n    match:\n      macaddress: \"{}\"\n",
            card.mac
        );
        if card.mode != "keep" {
            let _ = writeln!(network, "    dhcp4: {}", card.mode == "dhcp");
        }
        if !card.addresses.is_empty() {
            network += "    addresses:\n";
            for (address, prefix) in &card.addresses {
                let _ = writeln!(network, "      - \"{address}/{prefix}\"");
            }
        }
        if !card.gateways.is_empty() {
            network += "    routes:\n";
            for gateway in &card.gateways {
                let to = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                let _ = write!(network, "      - to: \"{to}\"\n        via: \"{gateway}\"\n");
            }
        }
        if !card.dns.is_empty() {
            network += "    nameservers:\n      addresses:\n";
            for server in &card.dns {
                let _ = writeln!(network, "        - \"{server}\"");
            }
        }
    }
    let file = |name: &str, text: String| (name.to_owned(), text);
    Ok(vec![
        file("meta-data", format!("instance-id: \"lifeboat-{instance}\"\n")),
        file(
            "user-data",
            "#cloud-config\nssh_deletekeys: false\npreserve_hostname: true\n".into(),
        ),
        file("network-config", network),
    ])
}

#[cfg(test)]
mod tests;
