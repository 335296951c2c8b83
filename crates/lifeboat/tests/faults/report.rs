//! What a run of fault tests has done and found. A loss is what this is about; an answer that came late and a replication that
//! does not go on by itself are faults too; and what could not be told is never a pass.

use std::collections::BTreeMap;

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Acknowledged and not there, or a copy that is no state the disks ever had.
    Loss,
    /// The daemon did not answer in time.
    Late,
    /// Something that should go on by itself did not.
    Stuck,
    /// The harness could not do what it had to do to tell.
    CouldNotTell,
}

/// Counts, and everything found in words.
pub(crate) struct Report {
    name: String,
    seed: u64,
    counts: BTreeMap<String, u64>,
    found: Vec<(Class, String)>,
}

/// The seed of this run: `LIFEBOAT_SEED`, or one that is always the same.
pub(crate) fn seed(default: u64) -> u64 {
    number("LIFEBOAT_SEED").unwrap_or(default)
}

/// Rounds of this run: `LIFEBOAT_ROUNDS`, or the test's own number.
pub(crate) fn rounds(default: u64) -> u64 {
    number("LIFEBOAT_ROUNDS").unwrap_or(default)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

impl Report {
    pub(crate) fn new(name: &str, seed: u64) -> Self {
        eprintln!("{name}: LIFEBOAT_SEED={seed}");
        Self {
            name: name.to_owned(),
            seed,
            counts: BTreeMap::new(),
            found: Vec::new(),
        }
    }

    pub(crate) fn count(&mut self, what: &str, n: u64) {
        *self.counts.entry(what.to_owned()).or_default() += n;
    }

    /// Remembers the greatest of these.
    pub(crate) fn slowest(&mut self, what: &str, n: u64) {
        let most = self.counts.entry(what.to_owned()).or_default();
        *most = n.max(*most);
    }

    pub(crate) fn add(&mut self, class: Class, text: String) {
        eprintln!("{class:?}: {text}");
        self.found.push((class, text));
    }

    pub(crate) fn losses(&self) -> usize {
        let losses = self.found.iter().filter(|(class, _)| *class == Class::Loss);
        losses.count()
    }

    fn print(&self) {
        eprintln!("{}, seed {}:", self.name, self.seed);
        for (what, n) in &self.counts {
            eprintln!("  {what}: {n}");
        }
        for class in [Class::Loss, Class::Late, Class::Stuck, Class::CouldNotTell] {
            let n = self.found.iter().filter(|(c, _)| *c == class).count();
            eprintln!("  {class:?}: {n}");
        }
    }

    /// Prints everything.
    ///
    /// # Panics
    /// When anything was found.
    pub(crate) fn finish(self) {
        self.print();
        let found: Vec<String> = self.found.iter().map(|(c, t)| format!("{c:?}: {t}")).collect();
        assert!(
            found.is_empty(),
            "{}: {} findings; replay with LIFEBOAT_SEED={}:\n{}",
            self.name,
            found.len(),
            self.seed,
            found.join("\n")
        );
    }

    /// Prints everything; for a control, which has to find losses.
    ///
    /// # Panics
    /// When no loss was found: then what the other runs say is worth nothing.
    pub(crate) fn finish_control(self) {
        self.print();
        assert!(
            self.losses() > 0,
            "{}: the disk lost what was flushed, and nobody noticed",
            self.name
        );
    }
}
