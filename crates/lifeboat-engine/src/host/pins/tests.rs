//! Certificates against what is remembered: the first one, the same, another one, an announced one.

use super::*;
use lifeboat_model::hint::{Hint, Trust};

fn key(n: u8) -> Fingerprint {
    Fingerprint::new([n; 32])
}

fn shown(names: &[&str], n: u8) -> PeerIdentity {
    PeerIdentity {
        names: names.iter().map(ToString::to_string).collect(),
        addresses: Vec::new(),
        key: Some(key(n)),
    }
}

fn vm(n: u128) -> VmId {
    VmId(uuid::Uuid::from_u128(n))
}

/// A relationship of VM 1 that names these hosts.
fn pins(names: &[&str]) -> Pins {
    let pins = Pins::new("alpha");
    let named = names.iter().map(ToString::to_string).collect();
    pins.with(|i| i.known.entry(vm(1)).or_default().named = named);
    pins
}

fn judge(pins: &Pins, called: Option<&str>, identity: &PeerIdentity) -> Result<(), OtherKey> {
    pins.judge(Some(vm(1)), called, identity, Timestamp(7))
}

#[tokio::test]
async fn the_first_key_of_a_named_host_is_kept_and_another_one_refused() {
    let pins = pins(&["beta.example.org:8443"]);
    judge(&pins, None, &shown(&["gamma"], 9)).unwrap();
    assert_eq!(
        pins.keys(vm(1)),
        [],
        "whom the relationship does not name is not remembered"
    );
    judge(
        &pins,
        Some("beta.example.org:8443"),
        &shown(&["beta.example.org", "beta"], 1),
    )
    .unwrap();
    judge(&pins, None, &shown(&["BETA"], 1)).unwrap();
    assert_eq!(pins.news().0, [vm(1)]);
    for (called, stolen) in [
        (None, shown(&["beta.example.org"], 2)),
        (None, shown(&["beta"], 2)),
        (None, shown(&["eve", "beta"], 2)),
        (Some("beta.example.org:8443"), shown(&["beta.example.org"], 2)),
        (Some("beta.example.org:8443"), shown(&["*.example.org"], 2)),
    ] {
        let refused = judge(&pins, called, &stolen).unwrap_err();
        for part in [&key(2).to_string(), &key(1).to_string()] {
            assert!(refused.0.text.contains(part), "{refused}");
        }
        let Some(Hint::Trust(Trust::CompareKey { name, key: shown, .. })) = refused.0.hint else {
            panic!("{refused:?}");
        };
        assert_eq!((name.as_str(), shown), ("beta.example.org", Some(key(2))));
    }
    let (_, told) = pins.news();
    assert_eq!(told.len(), 1, "one event for one key");
    assert_eq!(pins.alarms(vm(1)).len(), 1);
    judge(&pins, None, &shown(&["beta"], 1)).unwrap();
    assert_eq!(pins.keys(vm(1))[0].key, key(1));
}

#[tokio::test]
async fn a_host_that_is_named_by_its_address_is_known_by_it() {
    let pins = pins(&["10.0.0.2:8443"]);
    let at = |n: u8, names: &[&str]| PeerIdentity {
        addresses: vec!["10.0.0.2".parse().unwrap()],
        ..shown(names, n)
    };
    judge(&pins, Some("10.0.0.2:8443"), &at(1, &[])).unwrap();
    assert!(judge(&pins, None, &at(2, &["eve"])).is_err());
    assert!(judge(&pins, Some("10.0.0.2:8443"), &at(2, &[])).is_err());
    judge(&pins, None, &at(1, &["beta"])).unwrap();
    assert!(
        judge(&pins, None, &shown(&["beta"], 2)).is_err(),
        "its name is known by now"
    );
}

#[tokio::test]
async fn hosts_of_one_machine_are_told_apart_by_their_ports() {
    let pins = pins(&["127.0.0.1:1", "127.0.0.1:2"]);
    let local = |n: u8, name: &str| PeerIdentity {
        addresses: vec!["127.0.0.1".parse().unwrap()],
        ..shown(&[name], n)
    };
    judge(&pins, Some("127.0.0.1:1"), &local(1, "beta")).unwrap();
    judge(&pins, Some("127.0.0.1:2"), &local(2, "gamma")).unwrap();
    judge(&pins, None, &local(3, "delta")).unwrap();
    judge(&pins, None, &local(1, "beta")).unwrap();
    assert!(judge(&pins, Some("127.0.0.1:1"), &local(2, "gamma")).is_err());
    assert!(judge(&pins, None, &local(2, "beta")).is_err());
}

#[tokio::test]
async fn a_key_that_was_announced_is_accepted_and_takes_the_place_of_the_old_one() {
    let pins = pins(&["beta"]);
    assert!(
        pins.announce(vm(1), &shown(&["beta"], 1), Some(key(2))).is_err(),
        "nothing is known yet"
    );
    judge(&pins, None, &shown(&["beta"], 1)).unwrap();
    assert!(pins.announce(vm(1), &shown(&["beta"], 3), Some(key(3))).is_err());
    assert_eq!(pins.announce(vm(1), &shown(&["beta"], 1), Some(key(2))), Ok(true));
    assert_eq!(
        pins.announce(vm(1), &shown(&["beta"], 1), Some(key(2))),
        Ok(false)
    );
    judge(&pins, None, &shown(&["beta"], 1)).unwrap();
    assert!(judge(&pins, None, &shown(&["beta"], 3)).is_err());
    let kept = |n| pins.fits(Some(vm(1)), "beta:8443", &shown(&["beta"], n));
    assert!(kept(1) && kept(2) && !kept(3));
    judge(&pins, None, &shown(&["beta"], 2)).unwrap();
    assert!(
        !kept(1) && kept(2),
        "connections with the old one are not used any more"
    );
    assert!(pins.alarms(vm(1)).len() == 1, "and that is no alarm");
    assert!(
        judge(&pins, None, &shown(&["beta"], 1)).is_err(),
        "the old key is over"
    );
    assert_eq!(
        (pins.keys(vm(1))[0].key, pins.keys(vm(1))[0].next),
        (key(2), None)
    );

    assert_eq!(pins.announce(vm(1), &shown(&["beta"], 2), Some(key(4))), Ok(true));
    assert_eq!(pins.announce(vm(1), &shown(&["beta"], 2), None), Ok(true));
    assert!(
        judge(&pins, None, &shown(&["beta"], 4)).is_err(),
        "it was taken back"
    );
}

#[tokio::test]
async fn an_administrator_names_a_key_by_hand() {
    let pins = pins(&["beta.example.org:8443"]);
    assert_eq!(pins.trust(None, "gamma", key(1), Timestamp(0)), []);
    assert_eq!(
        pins.trust(Some(vm(2)), "beta.example.org", key(1), Timestamp(0)),
        []
    );
    // Before the first contact it is the only one that is accepted.
    assert_eq!(
        pins.trust(None, "beta.example.org", key(1), Timestamp(0)),
        [vm(1)]
    );
    assert!(
        judge(
            &pins,
            Some("beta.example.org:8443"),
            &shown(&["beta.example.org"], 2)
        )
        .is_err()
    );
    judge(
        &pins,
        Some("beta.example.org:8443"),
        &shown(&["beta.example.org"], 1),
    )
    .unwrap();
    assert!(judge(&pins, None, &shown(&["beta.example.org"], 2)).is_err());
    assert_eq!(
        pins.trust(None, "beta.example.org:8443", key(2), Timestamp(0)),
        [vm(1)]
    );
    assert_eq!(pins.alarms(vm(1)).len(), 0);
    judge(&pins, None, &shown(&["beta.example.org"], 2)).unwrap();
    assert!(judge(&pins, None, &shown(&["beta.example.org"], 1)).is_err());
}

#[tokio::test]
async fn what_one_relationship_knows_of_a_host_holds_for_new_ones() {
    let pins = pins(&["beta"]);
    judge(&pins, None, &shown(&["beta"], 1)).unwrap();
    let other = |vm, n| pins.judge(vm, None, &shown(&["beta"], n), Timestamp(0));
    assert!(other(Some(vm(2)), 2).is_err() && other(None, 2).is_err());
    assert!(other(Some(vm(2)), 1).is_ok() && other(None, 1).is_ok());
    pins.forget(vm(1));
    assert!(other(Some(vm(2)), 2).is_ok());
}

#[tokio::test]
async fn a_certificate_with_the_names_of_two_hosts_needs_the_keys_of_both() {
    let pins = pins(&["beta", "gamma"]);
    judge(&pins, None, &shown(&["beta"], 1)).unwrap();
    judge(&pins, None, &shown(&["gamma"], 2)).unwrap();
    assert!(judge(&pins, None, &shown(&["gamma", "beta"], 2)).is_err());
}
