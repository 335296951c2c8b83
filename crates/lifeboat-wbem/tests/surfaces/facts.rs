//! What a host of these tests says of itself where nobody asks: each test names what it looks at, and takes the rest from here.

use std::time::Duration;

use lifeboat_sim::World;
use lifeboat_wbem::cim::{Certificates, HostFacts, Machine};

/// The facts of a host of the world, without certificates and directories for media.
pub(crate) fn facts(w: &World, host: usize) -> HostFacts {
    HostFacts {
        name: w.shared.state().hosts[host].name.clone(),
        version: "0.0.0".into(),
        certificates: Certificates::Fixed(Vec::new()),
        peer_port: 7000,
        job_retention: Duration::from_secs(300),
        machine: Machine::default(),
        media_directories: Vec::new(),
    }
}
