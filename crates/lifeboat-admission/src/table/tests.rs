//! What the table promises, by cases and by random histories against a plain list.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

fn origin(n: u8) -> Origin {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)).into()
}

fn cap(total: usize, each: usize) -> Cap {
    Cap { total, each }
}

fn places() -> Places {
    Places {
        silent: cap(6, 3),
        handshaking: cap(4, 2),
        strangers: cap(4, 2),
        known: cap(5, 3),
    }
}

fn admit(table: &mut Table, from: u8) -> (u64, Option<u64>) {
    table.admit(origin(from), Stage::Silent).unwrap()
}

/// Through all rooms to the strangers.
fn stranger(table: &mut Table, from: u8) -> u64 {
    let (id, _) = admit(table, from);
    table.advance(id, Stage::Handshaking).unwrap();
    table.advance(id, Stage::Stranger).unwrap();
    id
}

#[test]
fn an_address_that_has_all_its_places_loses_its_own_oldest() {
    let mut table = Table::new(places());
    let first = admit(&mut table, 1).0;
    admit(&mut table, 1);
    admit(&mut table, 1);
    let other = admit(&mut table, 2);
    assert_eq!(other.1, None);
    assert_eq!(admit(&mut table, 1).1, Some(first));
    assert_eq!(table.len(), 4);
}

#[test]
fn when_all_places_are_taken_whoever_has_most_gives_way() {
    let mut table = Table::new(places());
    let one = [(); 3].map(|()| admit(&mut table, 1).0);
    let two = [(); 2].map(|()| admit(&mut table, 2).0);
    let three = admit(&mut table, 3).0;
    assert_eq!(admit(&mut table, 4).1, Some(one[0]));
    // 1 and 2 have two each: the older connection goes.
    assert_eq!(admit(&mut table, 5).1, Some(one[1]));
    assert_eq!(admit(&mut table, 6).1, Some(two[0]));
    // Everybody has one; the oldest of all goes for somebody new, and one's own for another of one's own.
    assert_eq!(admit(&mut table, 3).1, Some(three));
    assert_eq!(admit(&mut table, 7).1, Some(one[2]));
}

#[test]
fn what_is_silent_takes_nothing_from_what_shakes_hands() {
    let mut table = Table::new(places());
    let (shaking, _) = admit(&mut table, 1);
    table.advance(shaking, Stage::Handshaking).unwrap();
    for _ in 0..1000 {
        let lost = admit(&mut table, 1).1;
        assert_ne!(lost, Some(shaking));
    }
    assert_eq!(table.advance(shaking, Stage::Stranger), Ok(None));
}

#[test]
fn nobody_known_is_dropped_for_strangers() {
    let mut table = Table::new(places());
    let friend = stranger(&mut table, 1);
    table.known(friend, "alpha").unwrap();
    for from in 2..=200 {
        stranger(&mut table, from);
    }
    assert!(table.is_known(friend));
    assert_eq!(table.len(), 1 + 4);
}

#[test]
fn known_callers_are_counted_by_name_and_share_their_places() {
    let mut table = Table::new(places());
    let mut known = |from: u8, name: &str| {
        let id = stranger(&mut table, from);
        (id, table.known(id, name))
    };
    let (first, _) = known(1, "alpha");
    let (second, _) = known(2, "alpha");
    let (third, _) = known(3, "alpha");
    assert_eq!(known(4, "alpha").1, Ok(Some(first)), "three are enough");
    assert_eq!(known(4, "beta").1, Ok(None));
    assert_eq!(known(4, "beta").1, Ok(None));
    assert_eq!(known(5, "gamma").1, Ok(Some(second)), "alpha has most");
    table.hold(third);
    assert!(table.is_held(third));
    let id = stranger(&mut table, 6);
    assert_ne!(table.known(id, "delta"), Ok(Some(third)), "it is held");
}

#[test]
fn what_is_held_is_not_dropped_and_full_is_said() {
    let mut table = Table::new(places());
    let held = [(); 2].map(|()| stranger(&mut table, 1));
    held.iter().for_each(|id| table.hold(*id));
    let (id, _) = admit(&mut table, 1);
    table.advance(id, Stage::Handshaking).unwrap();
    assert_eq!(table.advance(id, Stage::Stranger), Err(NoPlace));
    table.loosen(held[1]);
    assert_eq!(table.advance(id, Stage::Stranger), Ok(Some(held[1])));
    assert_eq!(
        table.advance(held[1], Stage::Stranger),
        Err(NoPlace),
        "it is gone"
    );
}

#[test]
fn of_somebody_known_the_least_used_goes_and_of_a_stranger_the_oldest() {
    let mut table = Table::new(places());
    let ids = [(); 3].map(|()| {
        let id = stranger(&mut table, 1);
        table.known(id, "alpha").unwrap();
        id
    });
    table.hold(ids[0]);
    table.loosen(ids[0]);
    let id = stranger(&mut table, 1);
    assert_eq!(table.known(id, "alpha"), Ok(Some(ids[1])));
    let strange = [(); 2].map(|()| stranger(&mut table, 9));
    table.hold(strange[0]);
    table.loosen(strange[0]);
    let (id, _) = admit(&mut table, 9);
    table.advance(id, Stage::Handshaking).unwrap();
    assert_eq!(table.advance(id, Stage::Stranger), Ok(Some(strange[0])));
}

#[test]
fn an_address_of_somebody_known_keeps_its_way_in() {
    let mut table = Table::new(places());
    let friend = stranger(&mut table, 1);
    table.known(friend, "alpha").unwrap();
    let next = admit(&mut table, 1).0;
    for from in 2..=200 {
        assert_ne!(admit(&mut table, from).1, Some(next));
    }
    assert_eq!(table.advance(next, Stage::Handshaking), Ok(None));
    assert_eq!(table.known(next, "alpha"), Ok(None));
}

#[test]
fn faces_are_bounded() {
    let wide = cap(1000, 1000);
    let mut table = Table::new(Places {
        silent: wide,
        handshaking: wide,
        strangers: wide,
        known: wide,
    });
    for n in 0..1000_u32 {
        let from = IpAddr::V4(Ipv4Addr::from(n)).into();
        let (id, _) = table.admit(from, Stage::Stranger).unwrap();
        table.known(id, "alpha").unwrap();
    }
    assert_eq!(table.faces.len(), FAMILIAR);
}

#[test]
fn few_descriptors_make_few_places() {
    let places = Places {
        silent: cap(1024, 128),
        handshaking: cap(256, 64),
        strangers: cap(256, 64),
        known: cap(1024, 512),
    };
    assert_eq!(places.within(1 << 20), places);
    let few = places.within(1024);
    assert!(few.sum() <= 1024 / 6 + 7, "{few:?}");
    for cap in [few.silent, few.handshaking, few.strangers, few.known] {
        assert!(cap.each >= 1 && cap.each <= cap.total, "{few:?}");
    }
    let none = places.within(0);
    assert_eq!(none.silent, cap(1, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    Advance(usize, bool),
    Known(usize, u8),
    Hold(usize),
    Loosen(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Admit),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(n, far)| Step::Advance(n, far)),
        2 => (any::<usize>(), 0..3_u8).prop_map(|(n, name)| Step::Known(n, name)),
        1 => any::<usize>().prop_map(Step::Hold),
        1 => any::<usize>().prop_map(Step::Loosen),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

/// What a plain list knows of a connection.
#[derive(Clone, Debug)]
struct Plain {
    id: u64,
    known: Option<u8>,
    holds: u32,
}

proptest! {
    #[test]
    fn any_history_keeps_the_promises(steps in proptest::collection::vec(step(), 0..400)) {
        let mut table = Table::new(places());
        let mut all: Vec<Plain> = Vec::new();
        for step in steps {
            let pick = |n: usize| (!all.is_empty()).then(|| n % all.len());
            let (lost, by_known) = match step {
                Step::Admit(from) => match table.admit(origin(from), Stage::Silent) {
                    Ok((id, lost)) => {
                        all.push(Plain { id, known: None, holds: 0 });
                        (lost, false)
                    }
                    Err(NoPlace) => (None, false),
                },
                Step::Advance(n, far) => {
                    let Some(n) = pick(n) else { continue };
                    let stage = if far { Stage::Stranger } else { Stage::Handshaking };
                    (table.advance(all[n].id, stage).unwrap_or(None), false)
                }
                Step::Known(n, name) => {
                    let Some(n) = pick(n) else { continue };
                    match table.known(all[n].id, &name.to_string()) {
                        Ok(lost) => {
                            all[n].known.get_or_insert(name);
                            (lost, true)
                        }
                        Err(NoPlace) => (None, true),
                    }
                }
                Step::Hold(n) => {
                    let Some(n) = pick(n) else { continue };
                    table.hold(all[n].id);
                    all[n].holds += 1;
                    (None, false)
                }
                Step::Loosen(n) => {
                    let Some(n) = pick(n) else { continue };
                    if all[n].holds > 0 {
                        table.loosen(all[n].id);
                        all[n].holds -= 1;
                    }
                    (None, false)
                }
                Step::Leave(n) => {
                    let Some(n) = pick(n) else { continue };
                    table.leave(all[n].id);
                    all.remove(n);
                    (None, false)
                }
            };
            if let Some(lost) = lost {
                let at = all.iter().position(|p| p.id == lost).unwrap();
                let plain = all.remove(at);
                prop_assert!(plain.known.is_none() || by_known, "a stranger took a known caller's place");
                prop_assert_eq!(plain.holds, 0, "it was held");
            }
            prop_assert_eq!(table.len(), all.len());
            for plain in &all {
                prop_assert_eq!(table.is_known(plain.id), plain.known.is_some());
                prop_assert_eq!(table.is_held(plain.id), plain.holds > 0);
            }
            let (new, old) = (&table.strange, &table.familiar);
            let ways = [new, old].into_iter().flat_map(|w| [&w.silent, &w.handshaking, &w.strangers]);
            let rooms = ways.chain([&table.known]);
            let mut sum = 0;
            for pool in rooms {
                prop_assert!(pool.len <= pool.cap.total);
                prop_assert!(pool.shares.values().all(|s| s.len() <= pool.cap.each && s.len() > 0));
                prop_assert_eq!(pool.shares.values().map(Share::len).sum::<usize>(), pool.len);
                sum += pool.len;
            }
            prop_assert_eq!(sum, all.len());
        }
    }
}
