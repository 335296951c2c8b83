//! Addresses after a failover, `Msvm_FailoverNetworkAdapterSettingData`: which card an instance is for, and its addresses.
//! Whether they can be set in a guest is not known here.

use core::net::IpAddr;

use lifeboat_cim::Instance;
use lifeboat_engine::action::Refusal;
use lifeboat_model::{NicFailover, VmSpec};

use super::{Given, invalid, shown};

/// `ProtocolIFType`: IPv4 only.
const IPV4: u16 = 4096;
/// `ProtocolIFType`: IPv6 only.
const IPV6: u16 = 4097;

/// The settings of all cards of a VM after a change by these instances; cards that they do not name keep theirs. To what a card
/// is connected stays as it is, because these instances have no property for it.
pub(crate) fn cards(
    given: &[&Instance],
    spec: &VmSpec,
    before: &[NicFailover],
) -> Result<Vec<NicFailover>, Refusal> {
    let new: Vec<NicFailover> = given
        .iter()
        .map(|g| card(g, spec, before))
        .collect::<Result<_, _>>()?;
    let mentioned = |old: &&NicFailover| !new.iter().any(|n| n.mac.eq_ignore_ascii_case(&old.mac));
    let kept: Vec<NicFailover> = before.iter().filter(mentioned).cloned().collect();
    Ok(kept.into_iter().chain(new).filter(says).collect())
}

/// Whether a card has any setting beside its MAC address.
fn says(card: &NicFailover) -> bool {
    let silent = NicFailover {
        mac: card.mac.clone(),
        ..NicFailover::default()
    };
    *card != silent
}

fn card(given: &Instance, spec: &VmSpec, before: &[NicFailover]) -> Result<NicFailover, Refusal> {
    let mac = mac(given, spec)?;
    let given = Given(given);
    let said = |what: &str| {
        invalid(format!(
            "card {mac}: {what} is missing; IPAddresses and DHCPEnabled are both needed"
        ))
    };
    let dhcp = given.boolean("DHCPEnabled").ok_or_else(|| said("DHCPEnabled"))?;
    let addresses = given.texts("IPAddresses").ok_or_else(|| said("IPAddresses"))?;
    let subnets = given.texts("Subnets").unwrap_or_default();
    if addresses.len() != subnets.len() {
        return Err(invalid(format!(
            "card {mac}: {} IPAddresses and {} Subnets; each address has its own",
            addresses.len(),
            subnets.len()
        )));
    }
    let list = |name: &str| -> Result<Vec<IpAddr>, Refusal> {
        let texts = given.texts(name).unwrap_or_default();
        texts.iter().map(|t| address(&mac, name, t)).collect()
    };
    let own: Vec<IpAddr> = addresses
        .iter()
        .map(|a| address(&mac, "IPAddresses", a))
        .collect::<Result<_, _>>()?;
    let family = given.number::<u16>("ProtocolIFType")?;
    let wrong = match family {
        Some(IPV4) => own.iter().find(|a| !a.is_ipv4()),
        Some(IPV6) => own.iter().find(|a| a.is_ipv4()),
        _ => None,
    };
    if let (Some(wrong), Some(family)) = (wrong, family) {
        return Err(invalid(format!(
            "card {mac}: {wrong} is not of the family that ProtocolIFType {family} says"
        )));
    }
    let with_prefix = |(address, subnet): (&IpAddr, &String)| {
        prefix(*address, subnet)
            .map(|p| format!("{address}/{p}"))
            .ok_or_else(|| {
                invalid(format!(
                    "card {mac}: \"{}\" is no subnet of {address}",
                    shown(subnet)
                ))
            })
    };
    let old = before.iter().find(|c| c.mac.eq_ignore_ascii_case(&mac));
    Ok(NicFailover {
        dhcp,
        addresses: own
            .iter()
            .zip(&subnets)
            .map(with_prefix)
            .collect::<Result<_, _>>()?,
        gateways: list("DefaultGateways")?,
        dns: list("DNSServers")?,
        backend: old.and_then(|c| c.backend.clone()),
        test_backend: old.and_then(|c| c.test_backend.clone()),
        mac: mac.clone(),
    })
}

/// The card that `Microsoft:<GUID>\<MAC>\Failover` names, as the VM's description writes it.
fn mac(given: &Instance, spec: &VmSpec) -> Result<String, Refusal> {
    let id = given.text("InstanceID").unwrap_or_default();
    let wrong = || {
        invalid(format!(
            "InstanceID \"{}\" is that of no network card of this VM; read Msvm_FailoverNetworkAdapterSettingData and \
             send it back changed",
            shown(id)
        ))
    };
    let parts = super::parts(id).ok_or_else(wrong)?;
    let [vm, mac, tail] = parts.as_slice() else {
        return Err(wrong());
    };
    let fits = tail.eq_ignore_ascii_case("Failover") && vm.parse().is_ok_and(|vm| spec.uuid == vm);
    let plain = |mac: &str| mac.replace([':', '-'], "").to_lowercase();
    let found = spec.nics.iter().find(|n| plain(&n.mac) == plain(mac));
    found.filter(|_| fits).map(|n| n.mac.clone()).ok_or_else(wrong)
}

fn address(mac: &str, name: &str, text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| {
        invalid(format!(
            "card {mac}: {name}: \"{}\" is no IP address",
            shown(text)
        ))
    })
}

/// Bits of a subnet: a mask (`255.255.255.0`) or a number of bits.
fn prefix(address: IpAddr, subnet: &str) -> Option<u32> {
    if let Ok(mask) = subnet.parse::<core::net::Ipv4Addr>() {
        let bits = u32::from(mask);
        let whole = bits.leading_ones() + bits.trailing_zeros() >= 32;
        return (address.is_ipv4() && whole).then(|| bits.leading_ones());
    }
    let bits: u32 = subnet.strip_prefix('/').unwrap_or(subnet).parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (1..=most).contains(&bits).then_some(bits)
}
