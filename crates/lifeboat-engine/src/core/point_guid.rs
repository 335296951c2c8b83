//! The GUID by which the management API names an instant that a replica can be brought up at. It is made from the instant's
//! position alone, so it is the same when the newest cycle is followed by the next one, when a point is sealed there, after
//! a start, and on each host that has the instant. A generation is minted once, for one VM, so no two instants share
//! one.

use lifeboat_model::Position;
use uuid::{Builder, Uuid};

/// What else may be hashed for other purposes can never come out the same.
const CONTEXT: &str = "lifeboat 2026 GUID of a recovery point";

/// The GUID of the instant at a position: a UUID of version 8, which says that its bits are the program's own.
#[must_use]
pub fn point_guid(position: Position) -> Uuid {
    let mut hash = blake3::Hasher::new_derive_key(CONTEXT);
    hash.update(position.generation().0.as_bytes());
    hash.update(&position.sequence().to_be_bytes());
    let mut bytes = [0; 16];
    hash.finalize_xof().fill(&mut bytes);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lifeboat_model::GenerationId;

    use super::*;

    fn guid(generation: u128, sequence: u64) -> Uuid {
        point_guid(Position::from_parts(
            GenerationId(Uuid::from_u128(generation)),
            sequence,
        ))
    }

    #[test]
    fn each_instant_has_one_and_it_never_changes() {
        let all: HashSet<Uuid> = (1..=20)
            .flat_map(|generation| (1..=50).map(move |sequence| guid(generation, sequence)))
            .collect();
        assert_eq!(all.len(), 1000);
        // Clients write it down: another one for the same instant would lose them their point.
        assert_eq!(guid(7, 893).to_string(), "eaaf01f1-f238-83db-a9b6-f9879bbab590");
        assert_eq!(guid(7, 893).get_version_num(), 8);
    }
}
