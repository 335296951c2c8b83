//! The order of what a replica consists of: sealed points in the order of the image chain, logs in the order of their
//! parents. No clock and no sequence of another generation has a part in it. Ages are `aging`'s, choosing is
//! `failover`'s.

use crate::contract::PointView;
use crate::port::store::{Point, ReplicaInfo, StoredLog};
use lifeboat_model::{Position, Timestamp};
use std::collections::{HashMap, HashSet};

/// A position of a replica: a sealed point, the position after a log, or both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The position.
    pub(crate) position: Position,
    /// The point that is sealed there.
    pub(crate) point: Option<&'a Point>,
    /// The log that leads there.
    pub(crate) log: Option<&'a StoredLog>,
    /// The disks can be had as they were there: sealed, or by replaying logs from a point.
    pub(crate) reachable: bool,
}

impl<'a> Place<'a> {
    fn after(log: &'a StoredLog) -> Self {
        Self {
            position: log.position,
            point: None,
            log: Some(log),
            reachable: false,
        }
    }
}

/// All positions of a replica, oldest first. Points of an older generation come before the logs of the current one: they
/// are further down in the images.
pub(crate) fn places(info: &ReplicaInfo) -> Vec<Place<'_>> {
    let numbers: HashMap<Position, usize> = info
        .logs
        .iter()
        .enumerate()
        .map(|(n, l)| (l.position, n))
        .collect();
    let mut all = Vec::with_capacity(info.points.len() + info.logs.len());
    let mut placed = 0;
    for point in &info.points {
        let own = numbers.get(&point.position).copied();
        if let Some(n) = own.filter(|n| *n >= placed) {
            all.extend(info.logs.iter().take(n).skip(placed).map(Place::after));
            placed = n + 1;
        }
        all.push(Place {
            position: point.position,
            point: Some(point),
            log: own.and_then(|n| info.logs.get(n)),
            reachable: true,
        });
    }
    all.extend(info.logs.iter().skip(placed).map(Place::after));
    let mut reached = HashSet::new();
    for place in &mut all {
        place.reachable |= place.log.is_some_and(|l| reached.contains(&l.parent));
        if place.reachable {
            reached.insert(place.position);
        }
    }
    all
}

/// Recovery points, newest first, whose instant lies after that of a newer one: the clock that gave the instants was set
/// back in between.
pub(crate) fn out_of_order(points: &[PointView]) -> Vec<&PointView> {
    let mut lowest: Option<Timestamp> = None;
    let mut found = Vec::new();
    for point in points {
        match lowest {
            Some(newer) if point.instant > newer => found.push(point),
            Some(_) | None => lowest = Some(point.instant),
        }
    }
    found
}

/// What a user who names a time has to know when the instants are not in order.
pub(crate) fn disorder(points: &[PointView]) -> Option<String> {
    /// Points that are named; more would only fill the line.
    const NAMED: usize = 3;
    let found = out_of_order(points);
    let first = found.first()?;
    let mut names: Vec<&str> = found.iter().take(NAMED).map(|p| p.id.as_str()).collect();
    let rest = found.len() - names.len();
    let more = format!("{rest} more");
    if rest > 0 {
        names.push(&more);
    }
    let verb = if found.len() == 1 { "lies" } else { "lie" };
    Some(format!(
        "the primary's clock was set back: the instants of {} of {} recovery points ({}) {verb} after those of newer ones, \
         the newest of them being {}; a time means the newest data whose instant is not after it",
        found.len(),
        points.len(),
        names.join(", "),
        first.id
    ))
}

/// The logs that lead from a position to the newest one; `None` when they are not all here.
pub(crate) fn line(info: &ReplicaInfo, from: Position) -> Option<Vec<StoredLog>> {
    let (mut found, mut at) = (Vec::new(), from);
    while at != info.durable {
        let next = info.logs.iter().find(|l| l.parent == at)?;
        if found.len() >= info.logs.len() {
            return None;
        }
        at = next.position;
        found.push(next.clone());
    }
    Some(found)
}

/// Whether the newest point lies past where the third host stands. Only such a point can close a comparison: a position is
/// led to once.
pub(crate) fn past(info: &ReplicaInfo, theirs: Position) -> bool {
    let Some(point) = info.points.last().map(|p| p.position) else {
        return false;
    };
    match line(info, theirs) {
        Some(logs) => logs.iter().any(|l| l.position == point),
        None => theirs.at_or_after(point) != Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_deltalog::Consistency;
    use lifeboat_model::{GenerationId, PointId};
    use uuid::Uuid;

    use crate::contract::PointSelector;
    use crate::contract::paging::{Page, Paging};
    use crate::failover::initiate::{choose, page_of_points};
    use crate::port::scrub::{DamagedFile, NewestData, RepairState};
    use crate::target::points::points;

    const OLD: u128 = 1;
    const NEW: u128 = 2;

    fn at(generation: u128, sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(generation)), sequence)
    }

    fn point(position: Position, instant: u64) -> Point {
        Point {
            id: PointId(Uuid::from_u128(
                u128::from(instant) << 64 | u128::from(position.sequence()),
            )),
            position,
            instant: Timestamp(instant),
            consistency: Consistency::Crash,
            size: 1,
            arrived: None,
            changed: None,
        }
    }

    fn log(parent: Position, position: Position, instant: u64) -> StoredLog {
        StoredLog {
            position,
            parent,
            instant: Timestamp(instant),
            consistency: Consistency::Crash,
            size: 1,
            partial: false,
        }
    }

    fn replica(points: Vec<Point>, logs: Vec<StoredLog>) -> ReplicaInfo {
        let last = logs.last().map(|l| l.position);
        let durable = last.or(points.last().map(|p| p.position));
        let durable = durable.unwrap_or(at(NEW, 0));
        ReplicaInfo {
            place: crate::port::store::StoreLocation::new("/r"),
            files: Vec::new(),
            faults: Vec::new(),
            damage: Vec::new(),
            unsealed: Default::default(),
            disks: Vec::new(),
            bulk: Vec::new(),
            durable,
            applied: durable,
            points,
            logs,
            branches: Vec::new(),
            abandoned: None,
        }
    }

    fn reachable(info: &ReplicaInfo, position: Position) -> bool {
        let there = |p: &Place<'_>| p.position == position && p.reachable;
        places(info).iter().any(there)
    }

    fn positions(info: &ReplicaInfo) -> Vec<Position> {
        let target = |p: PointView| match p.target {
            crate::port::store::Target::Cycle { position } => position,
            crate::port::store::Target::Point { id } => {
                info.points.iter().find(|p| p.id == id).unwrap().position
            }
            crate::port::store::Target::Abandoned => unreachable!(),
        };
        points(info).into_iter().map(target).collect()
    }

    /// Points of a generation with high numbers below a new one with low numbers: enabled again, with a seed.
    fn seeded() -> ReplicaInfo {
        replica(
            vec![point(at(OLD, 99), 900), point(at(NEW, 2), 1000)],
            vec![
                StoredLog {
                    partial: true,
                    ..log(at(NEW, 0), at(NEW, 1), 990)
                },
                log(at(NEW, 1), at(NEW, 2), 1000),
                log(at(NEW, 2), at(NEW, 3), 1001),
                log(at(NEW, 3), at(NEW, 4), 1002),
            ],
        )
    }

    #[test]
    fn cycles_of_the_current_generation_lie_above_points_of_an_older_one() {
        let newest_first = [at(NEW, 4), at(NEW, 3), at(NEW, 2), at(OLD, 99)];
        assert_eq!(positions(&seeded()), newest_first);
        let newest = choose(&seeded(), &PointSelector::Latest).unwrap();
        assert_eq!(newest.id, at(NEW, 4).to_string());
    }

    #[test]
    fn a_list_of_points_goes_on_behind_its_place_whatever_came_and_went() {
        let page = |info: &ReplicaInfo, after: Option<String>| {
            let limit = Some(2);
            page_of_points(info, &Paging { limit, after })
        };
        let ids = |page: &Page<PointView>| page.items.iter().map(|p| p.id.clone()).collect::<Vec<_>>();
        let id = |p: Position| p.to_string();
        let sealed = |p: &Point| p.id.to_string();
        let mut info = seeded();
        let all = points(&info).into_iter().map(|p| p.id).collect::<Vec<_>>();
        let first = page(&info, None).unwrap();
        assert_eq!(ids(&first), all[..2]);
        let rest = page(&info, first.next.clone()).unwrap();
        assert_eq!((ids(&rest), rest.next), (all[2..].to_vec(), None));
        // A newer cycle has come, and the one that the first page ended behind is sealed: it has another id.
        info.logs.push(log(at(NEW, 4), at(NEW, 5), 1003));
        info.points.push(point(at(NEW, 3), 1001));
        assert_eq!(ids(&page(&info, first.next.clone()).unwrap()), all[2..]);
        // It has expired: the next older one of its generation is next.
        info.points.pop();
        info.logs.retain(|l| l.position != at(NEW, 3));
        let points_left = [&info.points[1], &info.points[0]].map(sealed);
        assert_eq!(ids(&page(&info, first.next.clone()).unwrap()), points_left);
        assert_eq!(ids(&page(&info, None).unwrap())[0], points_left[0]);
        // Nothing of its generation is left.
        let other = replica(vec![point(at(3, 1), 5)], vec![log(at(3, 1), at(3, 2), 6)]);
        assert_eq!(ids(&page(&other, None).unwrap())[0], id(at(3, 2)));
        let refusal = page(&other, first.next).unwrap_err();
        assert_eq!(
            refusal.hint,
            Some(lifeboat_model::hint::Again::FromBeginning.into()),
            "{refusal}"
        );
    }

    #[test]
    fn what_no_point_leads_to_is_not_offered_and_lies_on_top() {
        let unsealed = replica(
            vec![point(at(OLD, 99), 900)],
            vec![log(at(NEW, 0), at(NEW, 1), 1000)],
        );
        assert_eq!(positions(&unsealed), [at(OLD, 99)]);
        assert!(!reachable(&unsealed, at(NEW, 1)), "so it has to be sealed");
        assert_eq!(places(&unsealed).last().unwrap().position, at(NEW, 1));
        assert!(reachable(&seeded(), at(NEW, 4)));
    }

    fn damaged(log: Option<Position>, points: Vec<PointId>) -> DamagedFile {
        DamagedFile {
            file: "/r/x".into(),
            what: "rot".into(),
            since: Timestamp(1),
            points,
            log,
            newest: NewestData::Good,
            repair: RepairState::Hopeless,
        }
    }

    /// The sequences of what is listed and cannot be brought up, ascending.
    fn unusable(info: &ReplicaInfo) -> Vec<u64> {
        let listed = positions(info).into_iter().zip(points(info)).rev();
        let unusable = listed.filter(|(_, view)| view.unusable.is_some());
        unusable.map(|(position, _)| position.sequence()).collect()
    }

    #[test]
    fn cycles_behind_damage_are_not_offered_up_to_the_next_point() {
        // An hour of cycles a second apart, between two points.
        let logs = (1..=3600).map(|n| log(at(NEW, n), at(NEW, n + 1), n)).collect();
        let ends = vec![point(at(NEW, 1), 1), point(at(NEW, 3001), 3000)];
        let first = ends[0].id;
        let whole = replica(ends, logs);
        assert!(unusable(&whole).is_empty());
        let log = ReplicaInfo {
            damage: vec![damaged(Some(at(NEW, 2000)), Vec::new())],
            ..whole.clone()
        };
        assert_eq!(unusable(&log), (2000..=3000).collect::<Vec<_>>());
        let point = ReplicaInfo {
            damage: vec![damaged(None, vec![first])],
            applied: at(NEW, 2500),
            ..whole
        };
        let known = |n: &u64| *n != 2500;
        assert_eq!(
            unusable(&point),
            (1..=3000).filter(known).collect::<Vec<_>>(),
            "what the head shows is known"
        );
    }

    #[test]
    fn instants_have_no_part_in_the_order() {
        // The clock was 40 days ahead between the cycles 2 and 3, and an hour behind at 5.
        let jumped = replica(
            vec![point(at(NEW, 1), 100), point(at(NEW, 3), 4_000_000)],
            vec![
                log(at(NEW, 1), at(NEW, 2), 4_000_100),
                log(at(NEW, 2), at(NEW, 3), 4_000_000),
                log(at(NEW, 3), at(NEW, 4), 130),
                log(at(NEW, 4), at(NEW, 5), 90),
            ],
        );
        assert_eq!(positions(&jumped), [5, 4, 3, 2, 1].map(|n| at(NEW, n)));
        let chosen = |t| {
            choose(&jumped, &PointSelector::At(Timestamp(t)))
                .unwrap()
                .instant
                .0
        };
        assert_eq!(choose(&jumped, &PointSelector::Latest).unwrap().instant.0, 90);
        assert_eq!(chosen(130), 90, "the newest data whose instant is not after it");
        assert_eq!(chosen(u64::MAX), 90);
        assert!(choose(&jumped, &PointSelector::At(Timestamp(89))).is_err());
        let all = points(&jumped);
        let odd: Vec<u64> = out_of_order(&all).iter().map(|p| p.instant.0).collect();
        assert_eq!(odd, [130, 4_000_000, 4_000_100, 100]);
        let text = disorder(&all).unwrap();
        for part in ["4 of 5", &at(NEW, 4).to_string(), "1 more"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(disorder(&points(&seeded())), None);
    }

    #[test]
    fn expired_logs_and_logs_of_points_are_each_placed_once() {
        let info = replica(
            vec![point(at(NEW, 5), 5), point(at(NEW, 8), 8)],
            vec![
                log(at(NEW, 6), at(NEW, 7), 7),
                log(at(NEW, 7), at(NEW, 8), 8),
                log(at(NEW, 8), at(NEW, 9), 9),
            ],
        );
        let order: Vec<u64> = places(&info).iter().map(|p| p.position.sequence()).collect();
        assert_eq!(order, [5, 7, 8, 9]);
        assert_eq!(
            positions(&info),
            [9, 8, 5].map(|n| at(NEW, n)),
            "7 cannot be replayed"
        );
    }
}
