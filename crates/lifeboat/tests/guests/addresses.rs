//! A real guest takes the addresses that were set for its failover, by its agent and by the seed disk. What is right is
//! said by the guest itself.

use std::time::Duration;

use crate::support::guest::{shell, wait_ready};
use crate::support::{Setup, VM, World, wait_until};

const SET: &[&str] = &[
    "failover",
    "network",
    VM,
    "set",
    "--address",
    "10.0.2.77/24",
    "--address",
    "fd77::5/64",
    "--gateway",
    "10.0.2.2",
    "--dns",
    "10.0.2.3",
];

#[test]
fn guest_takes_its_addresses_after_a_failover() {
    let mut world = World::new(&Setup::default());
    world.start();
    world.a.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.a);
    world.replicate(&["--interval", "1s"]);
    world.a.wait_cycles(2);
    world.b.ok(SET);
    world.b.ok(&["failover", "start", VM, "--force"]);
    wait_ready(&world, &world.b);
    wait_until("the guest is told", Duration::from_secs(120), || {
        let events = world.b.json(&["events"]).to_string();
        assert!(
            !events.contains("not given its addresses"),
            "{events}\n{}",
            world.b.log()
        );
        events.contains("the guest has its addresses").then_some(())
    });
    let addresses = shell(&world, &world.b, "ip address show dev eth0");
    for wanted in ["inet 10.0.2.77/24", "inet6 fd77::5/64"] {
        assert!(addresses.contains(wanted), "{addresses}");
    }
    assert_eq!(
        addresses.matches("inet 10.").count(),
        1,
        "the old address is gone: {addresses}"
    );
    let routes = shell(&world, &world.b, "ip route");
    assert!(routes.contains("default via 10.0.2.2 dev eth0"), "{routes}");
    let resolver = shell(&world, &world.b, "cat /etc/resolv.conf");
    assert_eq!(
        resolver
            .lines()
            .filter(|l| l.starts_with("nameserver"))
            .collect::<Vec<_>>(),
        ["nameserver 10.0.2.3"]
    );
    let seed = "d=$(findfs LABEL=cidata) && mkdir -p /tmp/seed && mount -t vfat -o ro $d /tmp/seed && cat /tmp/seed/*";
    let seed = shell(&world, &world.b, seed);
    assert!(
        seed.contains("10.0.2.77/24") && seed.contains("instance-id"),
        "{seed}"
    );
    // The primary's own guest is not spoken to.
    let there = shell(&world, &world.a, "ip address show dev eth0");
    assert!(!there.contains("10.0.2.77"), "{there}");
    world.b.ok(&["failover", "revert", VM, "--force"]);
    world.a.wait_cycles(2);
}
