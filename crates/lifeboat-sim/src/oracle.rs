//! What must hold at any moment, by the world's own memory: every copy that claims to be an instant is that instant, no
//! contract was broken, nothing that was confirmed is gone, and what was set aside is as it was.

use lifeboat_model::Position;

use crate::disk::Content;
use crate::state::{KeptLog, Replica, State};
use crate::world::{VM, World};

impl World {
    /// Compares every point and every cycle of a host's replica with the truth, and looks for breaches of contracts.
    pub fn check(&mut self, host: usize) -> Result<(), String> {
        let shared = self.shared.clone();
        let s = shared.state();
        if let Some(v) = s.violations.first() {
            return Err(format!("contract: {v}"));
        }
        let Some(r) = s.hosts[host].replicas.get(&VM) else {
            return Ok(());
        };
        let generation = r.durable.generation().0.as_u128();
        let high = self.high.entry((host, generation)).or_default();
        if r.durable.sequence() < *high {
            return Err(format!("durable went back from {high} to {}", r.durable));
        }
        *high = r.durable.sequence();
        for (point, content) in &r.points {
            same(&s, point.position, point.instant.0, content, "point")?;
        }
        for KeptLog { log, .. } in &r.logs {
            if let Some(content) = r.replayed(log.position) {
                same(&s, log.position, log.instant.0, &content, "cycle")?;
            }
        }
        if r.applied != r.start && !r.partial(r.applied) && r.promoted.is_none() {
            let truth = s
                .truth_at(VM, r.applied)
                .ok_or("no instant was ever taken there")?;
            if truth.disks != r.head {
                return Err(format!("the head at {} is not what was captured", r.applied));
            }
        }
        kept(&s, host, r)
    }

    /// The same for all hosts.
    pub fn check_all(&mut self) -> Result<(), String> {
        let hosts = self.shared.state().hosts.len();
        (0..hosts).try_for_each(|host| self.check(host).map_err(|e| format!("host {host}: {e}")))
    }
}

/// What was set aside is still in the images it was in.
fn kept(s: &State, host: usize, r: &Replica) -> Result<(), String> {
    let Some((abandoned, content)) = &r.kept else {
        return Ok(());
    };
    for (key, content) in r.base_images.iter().zip(content) {
        let image = key.as_ref().and_then(|k| s.hosts[host].images.get(k));
        if image.is_some_and(|i| i.content != *content) {
            return Err(format!(
                "what was abandoned since {} was written to",
                abandoned.since
            ));
        }
    }
    Ok(())
}

fn same(s: &State, at: Position, instant: u64, content: &[Content], what: &str) -> Result<(), String> {
    let truth = s
        .truth_at(VM, at)
        .ok_or(format!("{what} {at} was never captured"))?;
    if truth.at.0 < instant && !s.clocks_set {
        return Err(format!("{what} {at} claims a later instant than it was taken at"));
    }
    if truth.disks != content {
        return Err(format!("{what} {at} does not hold what was captured"));
    }
    Ok(())
}
