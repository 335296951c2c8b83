//! Who is let in, and what it costs to ask.

use std::net::Ipv4Addr;

use camino::Utf8PathBuf;

use super::*;
use crate::cim::Role;
use crate::users::{Certificate, add_certificate, add_user, remove};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Door {
    login: Login,
    path: Utf8PathBuf,
    _dir: tempfile::TempDir,
}

fn door() -> Door {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().join("users.toml")).unwrap();
    for (name, role) in [("ada", Role::Administrator), ("bob", Role::Monitor)] {
        add_user(&path, name, &Secret::new(format!("{name}'s password")), role).unwrap();
    }
    let by_name = Certificate::named("Mgmt.example.org", Role::Operator).unwrap();
    add_certificate(&path, by_name).unwrap();
    let by_print = Certificate::named(&"ab".repeat(32), Role::Monitor).unwrap();
    add_certificate(&path, by_print).unwrap();
    Door {
        login: Login::open(&path).unwrap(),
        path,
        _dir: dir,
    }
}

fn header(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, text.parse().unwrap());
    headers
}

fn with_password(user: &str, password: &str) -> HeaderMap {
    header(&format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
}

fn certificate(fingerprint: &str, names: &[&str]) -> ClientCertificate {
    ClientCertificate {
        fingerprint: fingerprint.repeat(32),
        names: names.iter().map(ToString::to_string).collect(),
    }
}

#[tokio::test]
async fn a_table_of_who_gets_in() {
    let door = door();
    let known = certificate("00", &["mgmt.example.org", "other"]);
    let printed = certificate("ab", &[]);
    let strange = certificate("cd", &["strange.example.org"]);
    let wrong = |user: &str| Err(Denied::Wrong { user: user.into() });
    let in_as = |name: &str, role| {
        Ok(Caller {
            name: name.into(),
            role,
            from: None,
        })
    };
    let stranger = Err(Denied::UnknownCertificate {
        certificate: "strange.example.org".into(),
    });
    let none = HeaderMap::new();
    let ada = with_password("ada", "ada's password");
    let table = [
        (none.clone(), None, Err(Denied::Nothing)),
        (
            none.clone(),
            Some(&known),
            in_as("certificate Mgmt.example.org", Role::Operator),
        ),
        (
            none.clone(),
            Some(&printed),
            in_as(&format!("certificate {}", "ab".repeat(32)), Role::Monitor),
        ),
        (none, Some(&strange), stranger.clone()),
        (
            header(MUTUAL),
            Some(&known),
            in_as("certificate Mgmt.example.org", Role::Operator),
        ),
        (header(MUTUAL), Some(&strange), stranger),
        (header(MUTUAL), None, Err(Denied::Malformed)),
        (ada.clone(), None, in_as("ada", Role::Administrator)),
        (ada.clone(), None, in_as("ada", Role::Administrator)),
        (ada, Some(&strange), in_as("ada", Role::Administrator)),
        (
            with_password("bob", "bob's password"),
            Some(&known),
            in_as("bob", Role::Monitor),
        ),
        (with_password("ada", "bob's password"), None, wrong("ada")),
        (with_password("ada", ""), None, wrong("ada")),
        (with_password("Ada", "ada's password"), None, wrong("Ada")),
        // Its time is taken from ada's hash; her password must not help.
        (with_password("eve", "ada's password"), None, wrong("eve")),
        (header("Basic YWRh"), None, Err(Denied::Malformed)),
        (header("Basic ?"), None, Err(Denied::Malformed)),
        (header("Basic"), None, Err(Denied::Malformed)),
        (header("Negotiate YIIB"), None, Err(Denied::Malformed)),
        (
            with_password("ada", &"x".repeat(1025)),
            None,
            Err(Denied::Malformed),
        ),
    ];
    for (n, (headers, certificate, want)) in table.into_iter().enumerate() {
        let from = IpAddr::V4(Ipv4Addr::from(0x7f00_0001 + u32::try_from(n).unwrap()));
        assert_eq!(
            door.login.check(&headers, certificate, from).await,
            want,
            "line {n}"
        );
    }
}

#[tokio::test]
async fn whoever_is_removed_is_out_at_once() {
    let door = door();
    let bob = with_password("bob", "bob's password");
    assert!(door.login.check(&bob, None, HERE).await.is_ok());
    remove(&door.path, "bob").unwrap();
    assert!(matches!(
        door.login.check(&bob, None, HERE).await,
        Err(Denied::Wrong { .. })
    ));
    add_user(
        &door.path,
        "bob",
        &Secret::new("another one".into()),
        Role::Operator,
    )
    .unwrap();
    assert!(door.login.check(&bob, None, HERE).await.is_err());
    let bob = with_password("bob", "another one");
    assert_eq!(
        door.login.check(&bob, None, HERE).await.unwrap().role,
        Role::Operator
    );
}

/// Time is paused, so only a remembered password can be right without the clock of the hash.
#[tokio::test]
async fn a_password_is_remembered_for_five_minutes() {
    let door = door();
    let ada = with_password("ada", "ada's password");
    door.login.check(&ada, None, HERE).await.unwrap();
    let digest = door.login.digest("ada", &Secret::new("ada's password".into()));
    assert!(door.login.recall(&digest).is_some());
    tokio::time::pause();
    tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
    assert!(door.login.recall(&digest).is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(door.login.recall(&digest).is_none());
    assert!(
        door.login
            .recall(&door.login.digest("ad", &Secret::new("aada's password".into())))
            .is_none()
    );
}

/// Guesses `n` times at once from an address; how many were looked at, put off, and not queued.
async fn guesses(door: &Arc<Door>, from: IpAddr, n: usize) -> (usize, usize, usize) {
    let all: Vec<_> = (0..n)
        .map(|n| {
            let door = door.clone();
            tokio::spawn(async move {
                let headers = with_password("ada", &format!("guess {n}"));
                door.login.check(&headers, None, from).await
            })
        })
        .collect();
    let mut counts = (0, 0, 0);
    for task in all {
        match task.await.unwrap() {
            Err(Denied::Wrong { .. }) => counts.0 += 1,
            Err(Denied::Later { .. }) => counts.1 += 1,
            Err(Denied::Busy) => counts.2 += 1,
            other => panic!("{other:?}"),
        }
    }
    counts
}

#[tokio::test]
async fn of_two_hundred_guesses_at_once_a_few_are_looked_at() {
    tokio::time::pause();
    let door = Arc::new(door());
    let (wrong, later, busy) = guesses(&door, HERE, 200).await;
    // Two may be hashed for when the last free one turns out wrong.
    assert!((4..=5).contains(&wrong), "{wrong}");
    // A place may have become free before the last of them asked.
    assert!(later >= WAITING_EACH - wrong && busy >= 100, "{later} {busy}");
    assert_eq!(wrong + later + busy, 200);
    // From there the account is put off, and from nowhere else; the owner gets in.
    let ada = with_password("ada", "ada's password");
    assert!(matches!(
        door.login.check(&ada, None, HERE).await,
        Err(Denied::Later { .. })
    ));
    let there = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    assert_eq!(door.login.check(&ada, None, there).await.unwrap().name, "ada");
    // Others from there as well, and certificates are not passwords.
    let bob = with_password("bob", "bob's password");
    assert_eq!(door.login.check(&bob, None, HERE).await.unwrap().name, "bob");
    let known = certificate("00", &["mgmt.example.org"]);
    assert!(
        door.login
            .check(&HeaderMap::new(), Some(&known), HERE)
            .await
            .is_ok()
    );
    // What is remembered needs no look.
    assert!(door.login.check(&ada, None, HERE).await.is_ok());
}

#[tokio::test]
async fn what_was_put_off_is_looked_at_when_its_time_has_come() {
    tokio::time::pause();
    let door = Arc::new(door());
    assert_eq!(guesses(&door, HERE, 4).await.0, 4);
    let ada = with_password("ada", "ada's password");
    let Err(Denied::Later { wait }) = door.login.check(&ada, None, HERE).await else {
        panic!("it was looked at");
    };
    assert_eq!(wait, Duration::from_secs(1));
    tokio::time::advance(wait).await;
    assert_eq!(door.login.check(&ada, None, HERE).await.unwrap().name, "ada");
}

#[tokio::test]
async fn the_queue_is_bounded_and_suspects_leave_half_of_it_to_others() {
    let door = Arc::new(door());
    let there = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
    // Everybody has guessed wrong once.
    for n in 0..10 {
        door.login
            .backoff()
            .failed(Duration::ZERO, there(n).into(), &door.login.account("ada"));
    }
    let all: Vec<_> = (0..10)
        .map(|n| {
            let door = door.clone();
            tokio::spawn(async move { guesses(&door, there(n), 20).await })
        })
        .collect();
    // Many wait, and one is hashed for.
    while door.login.lanes[1].waiting.available_permits() > WAITING / 2 {
        tokio::task::yield_now().await;
    }
    assert!(door.login.at_once.available_permits() >= AT_ONCE - AT_ONCE_SUSPECTS);
    let ada = with_password("ada", "ada's password");
    assert_eq!(door.login.check(&ada, None, HERE).await.unwrap().name, "ada");
    let mut busy = 0;
    for task in all {
        busy += task.await.unwrap().2;
    }
    assert!(busy >= (200 - WAITING) / 2, "{busy}");
    assert_eq!(door.login.lanes[1].waiting.available_permits(), WAITING);
    assert!(door.login.lanes[1].each.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_same_right_password_many_times_costs_a_hash_or_two() {
    let door = Arc::new(door());
    let all: Vec<_> = (0..WAITING_EACH)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move {
                let headers = with_password("ada", "ada's password");
                door.login.check(&headers, None, HERE).await
            })
        })
        .collect();
    for task in all {
        task.await.unwrap().unwrap();
    }
}
