//! Whether two callers are two people, as far as this host can know. It decides nothing else and looks nothing up: what a caller
//! is known by was found out at the surface it came in by.
//!
//! The rule is on the safe side: callers are one person unless what is known of them differs. What cannot be known is in
//! docs/security.md: one person may have two accounts of different names, and root can take any name.

pub use crate::common::by::Account;
use crate::common::by::{By, Surface};

/// Whether these may be one person: everything is that but what is known to differ.
#[must_use]
pub fn may_be_one(a: &By, b: &By) -> bool {
    match (&a.account, &b.account) {
        (Some(a), Some(b)) => one_account(a, b),
        // What another host says is no person's consent.
        _ if [a.surface, b.surface].contains(&Surface::Peer) => true,
        _ => match (known_as(a), known_as(b)) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            // An account of this host without a name, and a user of the management API: nothing tells them apart or
            // together but that they came by different ways.
            _ => false,
        },
    }
}

/// Two callers who logged in are told apart by that. A caller without a known login, such as a process of a service, may be
/// any person with its user id; root without a login may be any user who may become root.
fn one_account(a: &Account, b: &Account) -> bool {
    let anybody = |account: &Account| account.uid == 0 && account.login.is_none();
    match (a.login, b.login) {
        (Some(a), Some(b)) => a == b,
        _ if anybody(a) || anybody(b) => true,
        (login, None) => a.uid == b.uid || login == Some(b.uid),
        (None, login) => a.uid == b.uid || login == Some(a.uid),
    }
}

/// The name a person has on every surface.
fn known_as(by: &By) -> Option<&str> {
    match &by.account {
        Some(account) => account.user.as_deref(),
        None => Some(by.name.strip_prefix("certificate ").unwrap_or(&by.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(uid: u32, login: Option<u32>, user: Option<&str>) -> By {
        let user = user.map(ToOwned::to_owned);
        By::of(Account { uid, login, user }, Some(7))
    }

    fn remote(surface: Surface, name: &str) -> By {
        By {
            surface,
            name: name.into(),
            from: Some("10.0.0.1:5".into()),
            account: None,
            confirmed: None,
        }
    }

    /// Two callers, whether they may be one, and why.
    type Case = (By, By, bool, &'static str);

    fn ada() -> By {
        local(0, Some(1000), Some("ada"))
    }

    fn bob() -> By {
        local(0, Some(1001), Some("bob"))
    }

    fn root_without_login() -> By {
        local(0, None, Some("root"))
    }

    fn on_this_host() -> Vec<Case> {
        let plain = || local(1000, Some(1000), Some("ada"));
        let service = || local(1000, None, Some("ada"));
        let unnamed = |uid| local(uid, None, None);
        vec![
            (ada(), ada(), true, "the same login"),
            (ada(), bob(), false, "two logins, both root by sudo"),
            (ada(), plain(), true, "with and without sudo"),
            (root_without_login(), root_without_login(), true, "root is one"),
            (
                ada(),
                root_without_login(),
                true,
                "root started a service, perhaps",
            ),
            (
                plain(),
                root_without_login(),
                true,
                "she may become root, perhaps",
            ),
            (service(), ada(), true, "the user id is the other's login"),
            (service(), bob(), false, "neither user id nor login is shared"),
            (unnamed(1000), unnamed(1001), false, "two user ids"),
        ]
    }

    fn from_elsewhere() -> Vec<Case> {
        use Surface::{CimXml, Peer, Wsman};
        let certificate = |name: &str| remote(Wsman, &format!("certificate {name}"));
        let user = |name: &str| remote(Wsman, name);
        vec![
            (ada(), user("ada"), true, "one name on two surfaces"),
            (ada(), remote(CimXml, "Ada"), true, "however it is written"),
            (ada(), user("bob"), false, "another name"),
            (root_without_login(), user("root"), true, "root by name"),
            (
                user("ada"),
                remote(CimXml, "ada"),
                true,
                "one user, two protocols",
            ),
            (user("ada"), certificate("ada"), true, "password and certificate"),
            (user("ada"), certificate("bob"), false, "another's certificate"),
            (
                local(5, None, None),
                user("ada"),
                false,
                "nothing known in common",
            ),
            (remote(Peer, "b"), ada(), true, "a host is no person"),
        ]
    }

    #[test]
    fn two_people_are_two_only_where_that_is_known() {
        for (a, b, one, why) in on_this_host().into_iter().chain(from_elsewhere()) {
            assert_eq!(may_be_one(&a, &b), one, "{why}: {a:?} {b:?}");
            assert_eq!(may_be_one(&b, &a), one, "{why}, the other way: {a:?} {b:?}");
        }
    }
}
