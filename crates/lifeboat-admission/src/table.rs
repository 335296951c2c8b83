//! The table of connections: who gets a place, and who loses one for it. It has no clock and no sockets; connections are
//! numbers, and the order in which they came is all it knows of time.
//!
//! A connection goes through rooms: it is silent, it shakes hands, its caller is unidentified, its caller is known. Each room has
//! places of its own, so that what is cheap to make in great numbers (connections that say nothing) takes nothing from what
//! is not. In each room places are divided among their holders, which are addresses until a caller is known, and names
//! then. When the room is full, the holder that has most loses a place, that of its oldest connection. Old ones go first because
//! an honest caller goes on to the next room within milliseconds.
//!
//! Addresses from which a known caller has connected have rooms of their own until the caller is known again: many unknown
//! addresses together cannot fill these.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::Origin;

/// Places in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Connections at once.
    pub total: usize,
    /// Of these, connections of one holder.
    pub each: usize,
}

/// Places of a listener. Each connection costs a file descriptor; memory for one is some KiB while it is silent, up to 64 KiB
/// while it shakes hands (rustls takes no larger handshake message), and what its listener reads ahead then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Until a ClientHello is there.
    pub silent: Cap,
    /// From there until the TLS handshake is done.
    pub handshaking: Cap,
    /// From there until the caller is known.
    pub strangers: Cap,
    /// Known callers; `each` counts by name.
    pub known: Cap,
}

/// Addresses that are remembered because a known caller has connected from them.
const FAMILIAR: usize = 256;
/// Rooms for these are smaller by this, but have room for one address in any case.
const FAMILIAR_PART: usize = 4;
/// Most of a process's descriptors that one listener takes: three listeners leave half to VMs, images and everything else.
const PART_OF_DESCRIPTORS: u64 = 6;

impl Cap {
    fn familiar(self) -> Self {
        Self {
            total: (self.total / FAMILIAR_PART).max(self.each).min(self.total),
            each: self.each,
        }
    }

    fn scaled(self, part: u64, of: u64) -> Self {
        let scale = |n: usize| {
            let n = n as u64 * part / of;
            usize::try_from(n).unwrap_or(usize::MAX).max(1)
        };
        Self {
            total: scale(self.total),
            each: scale(self.each),
        }
    }
}

impl Places {
    /// Connections at most.
    #[must_use]
    pub fn sum(&self) -> usize {
        let strange = [self.silent, self.handshaking, self.strangers];
        let both = strange.iter().map(|cap| cap.total + cap.familiar().total);
        both.sum::<usize>() + self.known.total
    }

    /// The same, or fewer where a process may have only so many descriptors.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let (sum, most) = (self.sum() as u64, descriptors / PART_OF_DESCRIPTORS);
        if sum <= most {
            return self;
        }
        Self {
            silent: self.silent.scaled(most, sum),
            handshaking: self.handshaking.scaled(most, sum),
            strangers: self.strangers.scaled(most, sum),
            known: self.known.scaled(most, sum),
        }
    }
}

/// How far a connection has come whose caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No whole ClientHello has come.
    Silent,
    /// The TLS handshake is under way.
    Handshaking,
    /// It is done, or there is none.
    Stranger,
}

/// There is no place: all are taken, and no holder has to yield one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Of an address from which no known caller has connected.
    Strange(Stage),
    /// Of another.
    Familiar(Stage),
    Known,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Origin(Origin),
    Name(Arc<str>),
}

/// What a holder has in a room.
#[derive(Debug, Default)]
struct Share {
    /// Connections that may be dropped, oldest first, by when they came into the room.
    loose: BTreeMap<u64, u64>,
    /// Connections that are held.
    held: usize,
}

impl Share {
    fn len(&self) -> usize {
        self.loose.len() + self.held
    }
}

#[derive(Debug)]
struct Pool {
    cap: Cap,
    shares: HashMap<Holder, Share>,
    len: usize,
}

impl Pool {
    fn new(cap: Cap) -> Self {
        let shares = HashMap::new();
        Self { cap, shares, len: 0 }
    }

    /// Whom a newcomer of this holder displaces: `None` when there is room.
    fn victim(&self, holder: &Holder) -> Result<Option<u64>, NoPlace> {
        let own = self.shares.get(holder);
        let has = own.map_or(0, Share::len);
        let oldest = |share: &Share| share.loose.first_key_value().map(|(at, id)| (*at, *id));
        if has >= self.cap.each {
            let (_, id) = own.and_then(oldest).ok_or(NoPlace)?;
            return Ok(Some(id));
        }
        if self.len < self.cap.total {
            return Ok(None);
        }
        // A holder yields a place to another only when it has more than that one would have.
        let yields = |share: &&Share| share.len() > has;
        let others = self.shares.values().filter(yields);
        let most = others
            .filter_map(|share| oldest(share).map(|(at, id)| (share.len(), std::cmp::Reverse(at), id)))
            .max();
        match most {
            Some((_, _, id)) => Ok(Some(id)),
            None => own.and_then(oldest).map(|(_, id)| Some(id)).ok_or(NoPlace),
        }
    }

    fn add(&mut self, holder: &Holder, at: u64, id: u64) {
        let share = self.shares.entry(holder.clone()).or_default();
        share.loose.insert(at, id);
        self.len += 1;
    }

    fn remove(&mut self, entry: &Entry) {
        let Some(share) = self.shares.get_mut(&entry.holder) else {
            return;
        };
        match entry.holds {
            0 => drop(share.loose.remove(&entry.at)),
            _ => share.held -= 1,
        }
        self.len -= 1;
        if share.len() == 0 {
            self.shares.remove(&entry.holder);
        }
    }
}

/// The rooms that a connection goes through until its caller is known.
#[derive(Debug)]
struct WayIn {
    silent: Pool,
    handshaking: Pool,
    strangers: Pool,
}

impl WayIn {
    fn new(places: Places, cap: impl Fn(Cap) -> Cap) -> Self {
        Self {
            silent: Pool::new(cap(places.silent)),
            handshaking: Pool::new(cap(places.handshaking)),
            strangers: Pool::new(cap(places.strangers)),
        }
    }

    fn of(&mut self, stage: Stage) -> &mut Pool {
        match stage {
            Stage::Silent => &mut self.silent,
            Stage::Handshaking => &mut self.handshaking,
            Stage::Stranger => &mut self.strangers,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    origin: Origin,
    room: Room,
    holder: Holder,
    /// When it came into the room.
    at: u64,
    /// How often it is held.
    holds: u32,
}

/// The connections of one listener.
#[derive(Debug)]
pub struct Table {
    entries: HashMap<u64, Entry>,
    strange: WayIn,
    familiar: WayIn,
    known: Pool,
    /// Addresses from which a known caller has connected, with when that was.
    faces: HashMap<Origin, u64>,
    clock: u64,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self {
            entries: HashMap::new(),
            strange: WayIn::new(places, |cap| cap),
            familiar: WayIn::new(places, Cap::familiar),
            known: Pool::new(places.known),
            faces: HashMap::new(),
            clock: 0,
        }
    }

    /// Connections that have a place.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no connection has a place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A connection has come. Its number, and that of the connection that has lost its place for it.
    pub fn admit(&mut self, origin: Origin, stage: Stage) -> Result<(u64, Option<u64>), NoPlace> {
        let room = self.entrance(origin, stage);
        let holder = Holder::Origin(origin);
        let lost = self.make_room(room, &holder)?;
        let id = self.tick();
        self.enter(id, origin, room, holder);
        Ok((id, lost))
    }

    /// A connection has come as far as this; the one that has lost its place for it. A connection that has no place any more
    /// gets none.
    pub fn advance(&mut self, id: u64, stage: Stage) -> Result<Option<u64>, NoPlace> {
        let origin = self.entries.get(&id).ok_or(NoPlace)?.origin;
        let room = self.entrance(origin, stage);
        self.go_to(id, room, Holder::Origin(origin))
    }

    /// It is known whose a connection is. A connection that is known already stays as it is.
    pub fn known(&mut self, id: u64, name: &str) -> Result<Option<u64>, NoPlace> {
        let entry = self.entries.get(&id).ok_or(NoPlace)?;
        if entry.room == Room::Known {
            return Ok(None);
        }
        let origin = entry.origin;
        let lost = self.go_to(id, Room::Known, Holder::Name(name.into()))?;
        self.remember(origin);
        Ok(lost)
    }

    /// Whether the caller of a connection is known.
    #[must_use]
    pub fn is_known(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|e| e.room == Room::Known)
    }

    /// Whether a connection is held.
    #[must_use]
    pub fn is_held(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|e| e.holds > 0)
    }

    /// A connection is not to lose its place until it is [loosened](Self::loosen) as often.
    pub fn hold(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.holds += 1;
        if entry.holds > 1 {
            return;
        }
        let entry = entry.clone();
        if let Some(share) = self.pool(entry.room).shares.get_mut(&entry.holder) {
            share.loose.remove(&entry.at);
            share.held += 1;
        }
    }

    /// It may lose its place again. Of a known caller's connections the one that was not used for longest loses its place first; an
    /// unidentified caller's connection does not become younger by asking.
    pub fn loosen(&mut self, id: u64) {
        let now = self.tick();
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.holds = entry.holds.saturating_sub(1);
        if entry.holds > 0 {
            return;
        }
        if entry.room == Room::Known {
            entry.at = now;
        }
        let entry = entry.clone();
        if let Some(share) = self.pool(entry.room).shares.get_mut(&entry.holder) {
            share.held -= 1;
            share.loose.insert(entry.at, id);
        }
    }

    /// A connection has ended.
    pub fn leave(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.pool(entry.room).remove(&entry);
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn entrance(&self, origin: Origin, stage: Stage) -> Room {
        if self.faces.contains_key(&origin) {
            Room::Familiar(stage)
        } else {
            Room::Strange(stage)
        }
    }

    fn pool(&mut self, room: Room) -> &mut Pool {
        match room {
            Room::Strange(stage) => self.strange.of(stage),
            Room::Familiar(stage) => self.familiar.of(stage),
            Room::Known => &mut self.known,
        }
    }

    fn make_room(&mut self, room: Room, holder: &Holder) -> Result<Option<u64>, NoPlace> {
        let lost = self.pool(room).victim(holder)?;
        if let Some(lost) = lost {
            self.leave(lost);
        }
        Ok(lost)
    }

    fn enter(&mut self, id: u64, origin: Origin, room: Room, holder: Holder) {
        let at = self.tick();
        self.pool(room).add(&holder, at, id);
        let holds = 0;
        let entry = Entry {
            origin,
            room,
            holder,
            at,
            holds,
        };
        self.entries.insert(id, entry);
    }

    fn go_to(&mut self, id: u64, room: Room, holder: Holder) -> Result<Option<u64>, NoPlace> {
        let before = self.entries.get(&id).ok_or(NoPlace)?.clone();
        if before.room == room || before.room == Room::Known {
            return Ok(None);
        }
        let lost = self.make_room(room, &holder)?;
        self.leave(id);
        self.enter(id, before.origin, room, holder);
        // Its holds go with it: each is by its number, and is loosened once.
        for _ in 0..before.holds {
            self.hold(id);
        }
        Ok(lost)
    }

    fn remember(&mut self, origin: Origin) {
        let now = self.tick();
        self.faces.insert(origin, now);
        if self.faces.len() > FAMILIAR
            && let Some(oldest) = self.faces.iter().min_by_key(|(_, at)| **at).map(|(o, _)| *o)
        {
            self.faces.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
