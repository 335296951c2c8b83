//! What a replica can be brought up at: its points and cycles, newest first, and which of them lie behind damage.

use crate::contract::PointView;
use crate::core::order::{Place, places};
use crate::core::point_guid::point_guid;
use crate::port::scrub::NewestData;
use crate::port::store::{Point, ReplicaInfo, StoredLog, Target};
use lifeboat_model::Position;
use std::collections::HashMap;

/// Every instant a replica can be brought up at, by position, the newest first: sealed points, and cycles whose logs are
/// retained.
pub(crate) fn points(info: &ReplicaInfo) -> Vec<PointView> {
    placed_points(info).map(|(_, point)| point).collect()
}

/// The same, each with its position.
pub(crate) fn placed_points(info: &ReplicaInfo) -> impl Iterator<Item = (Position, PointView)> {
    let places = places(info);
    let spoiled = spoiled_places(info, &places);
    let sealed = |p: &Point| PointView {
        id: p.id.to_string(),
        guid: Some(point_guid(p.position)),
        target: Target::Point { id: p.id },
        instant: p.instant,
        consistency: p.consistency,
        size: p.size,
        unusable: crate::target::scrub::spoils(&info.damage, p.id),
        changed: p.changed,
    };
    let cycle = |l: &StoredLog| PointView {
        id: l.position.to_string(),
        guid: Some(point_guid(l.position)),
        target: Target::Cycle { position: l.position },
        instant: l.instant,
        consistency: l.consistency,
        size: l.size,
        unusable: unusable_cycle(info, &spoiled, l.position),
        changed: None,
    };
    let view = |place: Place<'_>| match (place.point, place.log) {
        (Some(point), _) => Some((point.position, sealed(point))),
        // A cycle needs a sealed point to start from and an unbroken line of logs since.
        (None, Some(log)) => (place.reachable && !log.partial).then(|| (log.position, cycle(log))),
        (None, None) => None,
    };
    let all: Vec<_> = places.into_iter().rev().filter_map(view).collect();
    all.into_iter()
}

/// The positions that lie behind damage, with what is damaged: a spoiled point, or a damaged log, and every cycle that would
/// be replayed onto it. Each place follows from the one before, so one pass is enough.
pub(crate) fn spoiled_places(info: &ReplicaInfo, places: &[Place<'_>]) -> HashMap<Position, String> {
    let mut spoiled = HashMap::new();
    if info.damage.is_empty() {
        return spoiled;
    }
    for place in places {
        let hurt = |at: Position| info.damage.iter().find(|d| d.log == Some(at));
        let why = match (place.point, hurt(place.position)) {
            (Some(point), _) => crate::target::scrub::spoils(&info.damage, point.id),
            (None, Some(hurt)) => Some(format!("{} is damaged: {}", hurt.file, hurt.what)),
            (None, None) => place.log.and_then(|l| spoiled.get(&l.parent)).cloned(),
        };
        if let Some(why) = why {
            spoiled.insert(place.position, why);
        }
    }
    spoiled
}

/// Why a cycle cannot be brought up: what it would be replayed onto, or a log on the way, is damaged.
pub(crate) fn unusable_cycle(
    info: &ReplicaInfo,
    spoiled: &HashMap<Position, String>,
    position: Position,
) -> Option<String> {
    // What the head shows is known exactly, whatever it was made from.
    if position == info.applied && info.damage.iter().all(|d| d.newest == NewestData::Good) {
        return None;
    }
    spoiled.get(&position).cloned()
}
