//! Network cards of a VM, what they are connected to, and the addresses their guest gets after a failover.

use std::net::IpAddr;

use lifeboat_cim::{Instance, ObjectPath};
use lifeboat_engine::action::VmView;
use lifeboat_model::{NicBackend, NicFailover, NicSpec};

use super::names::{by_id, guid, part_id, plain_mac, text};
use super::{ClassView, Make, element, link, part, view};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;

pub(super) const CLASSES: &[ClassView] = &[
    view(CARD, Make::Vm(cards)),
    view(CONNECTION, Make::Vm(connections)),
    view(FAILOVER, Make::Vm(failovers)),
    view(
        "Msvm_EthernetPortFailoverSettingDataComponent",
        Make::Vm(components),
    ),
];

const CARD: &str = "Msvm_SyntheticEthernetPortSettingData";
const CONNECTION: &str = "Msvm_EthernetPortAllocationSettingData";
const FAILOVER: &str = "Msvm_FailoverNetworkAdapterSettingData";

fn card_path(view: &VmView, nic: &NicSpec) -> ObjectPath {
    by_id(CARD, &part_id(view.spec.uuid, &plain_mac(&nic.mac)))
}

fn connection_path(view: &VmView, nic: &NicSpec) -> ObjectPath {
    let part = format!("{}\\Connection", plain_mac(&nic.mac));
    by_id(CONNECTION, &part_id(view.spec.uuid, &part))
}

fn failover_path(view: &VmView, nic: &NicSpec) -> ObjectPath {
    let part = format!("{}\\Failover", plain_mac(&nic.mac));
    by_id(FAILOVER, &part_id(view.spec.uuid, &part))
}

fn id_of(path: &ObjectPath) -> &str {
    path.name.text("InstanceID").unwrap_or_default()
}

fn cards(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let card = |nic: &NicSpec| {
        let names = (
            "Virtual Ethernet Port Default Settings",
            "Describes the default settings for the virtual Ethernet port resources.",
            "Network Adapter",
        );
        let kind = (10, "Microsoft:Hyper-V:Synthetic Ethernet Port");
        let path = card_path(view, nic);
        part(CARD, id_of(&path), names, kind, "count", 1)
            .with("Address", plain_mac(&nic.mac))
            .with("StaticMacAddress", true)
            .with("ClusterMonitored", false)
            .with("DeviceNamingEnabled", false)
            .with("AllowPacketDirect", false)
            .with(
                "VirtualSystemIdentifiers",
                vec![format!("{{{}}}", guid(view.spec.uuid))],
            )
    };
    view.spec.nics.iter().map(card).collect()
}

/// What a card is connected to, as the name of a switch; `None` when to nothing.
fn switch(backend: &NicBackend) -> Option<&str> {
    match backend {
        NicBackend::None => None,
        NicBackend::User => Some("user"),
        NicBackend::Tap { ifname } => Some(ifname),
        NicBackend::Bridge { name } => Some(name),
    }
}

fn settings_of<'a>(view: &'a VmView, nic: &NicSpec) -> Option<&'a NicFailover> {
    let network = &view.replication.as_ref()?.network;
    network.iter().find(|n| n.is_for(nic))
}

fn connections(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let connection = |nic: &NicSpec| {
        let name = "Ethernet Switch Port Settings";
        let kind = (33, "Microsoft:Hyper-V:Ethernet Connection");
        let path = connection_path(view, nic);
        let connected = switch(&nic.backend);
        let test = settings_of(view, nic).and_then(|s| s.test_backend.as_ref());
        part(CONNECTION, id_of(&path), (name, name, name), kind, "count", 1)
            .with("Parent", text(host, card_path(view, nic)))
            .with("EnabledState", if connected.is_some() { 2_u16 } else { 3 })
            .with_some("LastKnownSwitchName", connected)
            .with("TestReplicaPoolID", "")
            .with("TestReplicaSwitchName", test.and_then(switch).unwrap_or_default())
    };
    view.spec.nics.iter().map(connection).collect()
}

/// The mask of an IPv4 prefix, or the length of an IPv6 one, as this API writes them.
fn subnet(address: IpAddr, prefix: u8) -> String {
    match address {
        IpAddr::V4(_) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            std::net::Ipv4Addr::from(mask).to_string()
        }
        IpAddr::V6(_) => prefix.to_string(),
    }
}

fn addresses(settings: Option<&NicFailover>) -> Vec<(IpAddr, u8)> {
    let one = |text: &String| {
        let (address, prefix) = text.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    };
    let all = settings.map_or(&[][..], |s| &s.addresses);
    all.iter().filter_map(one).collect()
}

/// `ProtocolIFType`; IPv4 when there is no address to tell.
fn protocol(addresses: &[(IpAddr, u8)]) -> u16 {
    let v4 = addresses.iter().any(|(a, _)| a.is_ipv4());
    let v6 = addresses.iter().any(|(a, _)| a.is_ipv6());
    match (v4, v6) {
        (true, true) => 4098,
        (false, true) => 4097,
        (true, false) | (false, false) => 4096,
    }
}

fn failovers(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let texts = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let failover = |nic: &NicSpec| {
        let name = "Failover Network Adapter Settings";
        let path = failover_path(view, nic);
        let settings = settings_of(view, nic);
        let addresses = addresses(settings);
        let hosts: Vec<_> = addresses.iter().map(|(a, _)| a.to_string()).collect();
        let subnets: Vec<_> = addresses.iter().map(|(a, p)| subnet(*a, *p)).collect();
        element(FAILOVER, name, "Addresses of the guest after a failover", name)
            .with("InstanceID", id_of(&path))
            .with("ProtocolIFType", protocol(&addresses))
            .with("DHCPEnabled", settings.is_some_and(|s| s.dhcp))
            .with("IPAddresses", hosts)
            .with("Subnets", subnets)
            .with(
                "DefaultGateways",
                settings.map_or_else(Vec::new, |s| texts(&s.gateways)),
            )
            .with("DNSServers", settings.map_or_else(Vec::new, |s| texts(&s.dns)))
    };
    view.spec.nics.iter().map(failover).collect()
}

fn components(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let component = |nic: &NicSpec| {
        link(
            "Msvm_EthernetPortFailoverSettingDataComponent",
            ("GroupComponent", card_path(view, nic)),
            ("PartComponent", failover_path(view, nic)),
        )
    };
    view.spec.nics.iter().map(component).collect()
}

/// Everything here that is part of a VM's settings; addresses after a failover are part of a card's.
pub(super) fn paths(view: &VmView) -> Vec<ObjectPath> {
    let nics = view.spec.nics.iter();
    let cards = nics.clone().map(|n| card_path(view, n));
    cards.chain(nics.map(|n| connection_path(view, n))).collect()
}
