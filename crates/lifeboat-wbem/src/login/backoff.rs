//! When a password may be tried again. Wrong passwords delay the next attempt for an account at an address and, after more of
//! them, for all accounts at an address. An account is never delayed at all addresses: an attacker could then keep its owner
//! out.
//!
//! A delayed attempt is refused without comparing the password, so it costs nothing. There is no clock here: callers say what
//! time it is.

use std::collections::HashMap;
use std::time::Duration;

use lifeboat_admission::Origin;

/// Digest of an account's name, whether there is such an account or not.
pub(super) type Account = [u8; 32];

/// How attempts are put off: not after the first `free` failures, then by `first`, twice as long after each further failure,
/// never longer than `most`.
struct Schedule {
    free: u32,
    first: Duration,
    most: Duration,
}

/// For an account at an address: people mistype, and clients try an old password once or twice. At the end an account takes
/// 1,440 guesses a day from one address; NIST SP 800-63B (5.2.2) wants at most 100 in a row, and 100 take an hour and a half.
const ACCOUNT: Schedule = Schedule {
    free: 3,
    first: Duration::from_secs(1),
    most: Duration::from_secs(60),
};
/// For an address, that guesses at many accounts. It is shared by all who call from it, so the longest time is what such a
/// caller can be expected to wait.
const ADDRESS: Schedule = Schedule {
    free: 20,
    first: Duration::from_millis(500),
    most: Duration::from_secs(10),
};
/// Failures are forgotten when there was none for this time.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// Accounts at addresses, addresses, and accounts at addresses whose password was right, that are remembered.
const ENTRIES: usize = 4096;
/// Of these, accounts at one address. Further ones are put off by their address alone.
const ACCOUNTS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Duration,
    /// No attempt before this.
    until: Duration,
}

impl Failures {
    fn begun(now: Duration) -> Self {
        Self {
            count: 0,
            last: now,
            until: now,
        }
    }

    fn add(&mut self, now: Duration, schedule: &Schedule) {
        self.count = self.count.saturating_add(1);
        self.last = now;
        if let Some(doublings) = self.count.checked_sub(schedule.free + 1) {
            let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
            self.until = now + schedule.first.saturating_mul(factor).min(schedule.most);
        }
    }

    fn counts(&self, now: Duration) -> bool {
        now.saturating_sub(self.last) < FORGOTTEN
    }
}

/// Wrong and right passwords of late, bounded by [`ENTRIES`]. Times are since any fixed instant.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    accounts: HashMap<(Origin, Account), Failures>,
    addresses: HashMap<Origin, Failures>,
    /// When a password was right last.
    proven: HashMap<(Origin, Account), Duration>,
}

impl Backoff {
    /// How long an attempt has to be put off; `None` when it may be made.
    pub(super) fn wait(&self, now: Duration, from: Origin, account: &Account) -> Option<Duration> {
        let left = |failures: Option<&Failures>| {
            let failures = failures.filter(|f| f.counts(now))?;
            failures.until.checked_sub(now).filter(|left| !left.is_zero())
        };
        let key = (from, *account);
        let own = left(self.accounts.get(&key));
        // An account that logged in from this address before is not delayed by guesses at other accounts.
        let shared = if self.proven.contains_key(&key) {
            None
        } else {
            left(self.addresses.get(&from))
        };
        own.max(shared)
    }

    /// Whether a password was wrong of late, for this account at this address or, unless it logged in from there before, for
    /// any.
    pub(super) fn suspects(&self, now: Duration, from: Origin, account: &Account) -> bool {
        let key = (from, *account);
        let wrong = |failures: Option<&Failures>| failures.is_some_and(|f| f.counts(now));
        wrong(self.accounts.get(&key)) || wrong(self.addresses.get(&from)) && !self.proven.contains_key(&key)
    }

    /// A password was wrong.
    pub(super) fn failed(&mut self, now: Duration, from: Origin, account: &Account) {
        let address = forgetting(&mut self.addresses, now, from);
        address.add(now, &ADDRESS);
        let key = (from, *account);
        let of_address =
            |(key, failures): &(&(Origin, Account), &Failures)| key.0 == from && failures.counts(now);
        let accounts = self.accounts.iter().filter(of_address).count();
        if accounts < ACCOUNTS || self.accounts.contains_key(&key) {
            forgetting(&mut self.accounts, now, key).add(now, &ACCOUNT);
        }
    }

    /// A password was right. Wrong ones for other accounts at the address still count.
    pub(super) fn succeeded(&mut self, now: Duration, from: Origin, account: &Account) {
        let key = (from, *account);
        self.accounts.remove(&key);
        make_room(&mut self.proven, &key, |at| *at);
        self.proven.insert(key, now);
    }
}

/// The failures of a key. Those of more than [`FORGOTTEN`] ago are cleared first.
fn forgetting<K: Copy + Eq + std::hash::Hash>(
    table: &mut HashMap<K, Failures>,
    now: Duration,
    key: K,
) -> &mut Failures {
    make_room(table, &key, |f| f.last);
    let failures = table.entry(key).or_insert_with(|| Failures::begun(now));
    if !failures.counts(now) {
        *failures = Failures::begun(now);
    }
    failures
}

/// Removes the oldest entry of a full table that does not have the key.
fn make_room<K: Copy + Eq + std::hash::Hash, V>(
    table: &mut HashMap<K, V>,
    key: &K,
    at: impl Fn(&V) -> Duration,
) {
    if table.len() < ENTRIES || table.contains_key(key) {
        return;
    }
    if let Some(oldest) = table.iter().min_by_key(|(_, v)| at(v)).map(|(k, _)| *k) {
        table.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn origin(n: u32) -> Origin {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)).into()
    }

    fn account(n: u32) -> Account {
        let mut account = [0; 32];
        account[..4].copy_from_slice(&n.to_le_bytes());
        account
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Guesses as soon as it may, `n` times; when the last one was made.
    fn guess(backoff: &mut Backoff, n: u32, from: Origin, account: &Account) -> Duration {
        let mut now = at(0);
        for _ in 0..n {
            now += backoff.wait(now, from, account).unwrap_or_default();
            backoff.failed(now, from, account);
        }
        now
    }

    #[test]
    fn each_further_wrong_password_puts_the_next_one_off_for_twice_as_long() {
        let mut backoff = Backoff::default();
        let (from, ada) = (origin(1), account(1));
        let waits: Vec<u64> = (0..11)
            .map(|_| {
                backoff.failed(at(0), from, &ada);
                backoff.wait(at(0), from, &ada).unwrap_or_default().as_secs()
            })
            .collect();
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.wait(at(60), from, &ada), None);
        assert_eq!(backoff.wait(at(59), from, &ada), Some(at(1)));
        // Elsewhere, and for others here, nothing is put off.
        assert_eq!(backoff.wait(at(0), origin(2), &ada), None);
        assert_eq!(backoff.wait(at(0), from, &account(2)), None);
        assert!(!backoff.suspects(at(0), origin(2), &ada));
        assert!(backoff.suspects(at(0), from, &account(2)));
        // After a quarter of an hour without a failure counting begins again.
        assert!(!backoff.suspects(at(900), from, &ada));
        backoff.failed(at(900), from, &ada);
        assert_eq!(backoff.wait(at(900), from, &ada), None);
    }

    #[test]
    fn a_hundred_guesses_at_an_account_take_more_than_an_hour() {
        assert!(guess(&mut Backoff::default(), 100, origin(1), &account(1)) > at(5400));
    }

    #[test]
    fn an_address_that_guesses_at_many_accounts_is_put_off_as_a_whole() {
        let mut backoff = Backoff::default();
        for n in 0..30 {
            backoff.failed(at(0), origin(1), &account(n));
        }
        assert_eq!(backoff.wait(at(0), origin(1), &account(99)), Some(at(10)));
        assert_eq!(backoff.wait(at(0), origin(2), &account(99)), None);
        // An account that logged in from there before is not delayed by it, but it is by guesses at itself.
        backoff.succeeded(at(0), origin(1), &account(99));
        assert_eq!(backoff.wait(at(0), origin(1), &account(99)), None);
        for _ in 0..4 {
            backoff.failed(at(0), origin(1), &account(99));
        }
        assert_eq!(backoff.wait(at(0), origin(1), &account(99)), Some(at(1)));
    }

    #[test]
    fn a_right_password_ends_what_was_put_off_for_its_account_alone() {
        let mut backoff = Backoff::default();
        let (from, ada) = (origin(1), account(1));
        for _ in 0..30 {
            backoff.failed(at(0), from, &ada);
        }
        backoff.succeeded(at(60), from, &ada);
        assert_eq!(backoff.wait(at(0), from, &ada), None);
        assert!(backoff.wait(at(0), from, &account(2)).is_some());
    }

    #[test]
    fn memory_is_bounded_and_one_address_cannot_make_others_forgotten() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(at(0), origin(0), &account(0));
        }
        for n in 0..10_000 {
            backoff.failed(at(1), origin(1), &account(n));
        }
        assert!(backoff.wait(at(1), origin(0), &account(0)).is_some());
        for n in 0..10_000 {
            backoff.failed(at(2), origin(n), &account(n));
            backoff.succeeded(at(2), origin(n), &account(n));
        }
        let sizes = [
            backoff.accounts.len(),
            backoff.addresses.len(),
            backoff.proven.len(),
        ];
        assert!(sizes.iter().all(|n| *n <= ENTRIES), "{sizes:?}");
    }
}
