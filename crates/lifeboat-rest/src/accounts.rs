//! Whose a process of this host is: its user, and the user it logged in as, which stays what it was through `sudo` and `su`. The
//! kernel's word and the file of users; no directory service is asked, because one that does not answer must not keep anybody
//! from managing this host.

use lifeboat_engine::by::By;
use lifeboat_engine::person::Account;

/// What the kernel says of a process without a login.
const NO_LOGIN: u32 = u32::MAX;
/// Largest file of users that is read.
const MAX_FILE: u64 = 4 << 20;

/// The process on the other end of a connection. Should it have ended and its number be in use again, the login would be that of
/// another process; its user is the kernel's word of when the connection was made.
pub(crate) fn caller(uid: u32, pid: Option<i32>) -> By {
    let login = pid.and_then(login);
    let users = file("/etc/passwd");
    let user = name(&users, login.unwrap_or(uid)).map(ToOwned::to_owned);
    By::of(Account { uid, login, user }, pid)
}

fn file(path: &str) -> String {
    let fits = std::fs::metadata(path).is_ok_and(|m| m.len() <= MAX_FILE);
    if fits {
        std::fs::read_to_string(path).unwrap_or_default()
    } else {
        String::new()
    }
}

fn login(pid: i32) -> Option<u32> {
    logged_in(&std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?)
}

fn logged_in(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}

/// The first name of a user id, as passwd(5) has it.
fn name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let of = fields.nth(1)?.parse::<u32>().ok()?;
        (of == uid).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_number_other_than_the_kernels_no_login() {
        for (text, want) in [
            ("1000", Some(1000)),
            ("0\n", Some(0)),
            ("4294967295", None),
            ("", None),
        ] {
            assert_eq!(logged_in(text), want, "{text:?}");
        }
        assert_eq!(login(-1), None);
    }

    #[test]
    fn names_are_those_of_the_file_of_users() {
        let users = "# people\nroot:x:0:0:root:/root:/bin/sh\n:x:7:7:::\nada:x:1000:1000::/srv/ada:/bin/sh\n\
                     again:x:1000:1000:::\nbroken:x\nbob:x:+1001:1:::\n";
        for (uid, want) in [(0, Some("root")), (1000, Some("ada")), (7, None), (5, None)] {
            assert_eq!(name(users, uid), want, "{uid}");
        }
    }

    #[test]
    fn this_process_is_known_by_its_user() {
        let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
        let by = caller(uid, i32::try_from(pid).ok());
        assert_eq!(by.account.as_ref().map(|a| a.uid), Some(uid));
        assert_eq!(by.from, Some(format!("pid {pid}")));
    }
}
