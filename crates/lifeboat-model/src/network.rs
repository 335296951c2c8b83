//! What a VM's network cards become on the replica: which network they are connected to, and which addresses the guest
//! gets there (`Msvm_FailoverNetworkAdapterSettingData`). It knows how these are written, not how they get into a guest.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::vm::NicBackend;

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
