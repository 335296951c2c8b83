//! Who is let in, and what it costs to ask.

use camino::Utf8PathBuf;

use super::*;
use crate::cim::Role;
use crate::remote::users::{Certificate, add_certificate, add_user, remove};

struct Door {
    login: Login,
    path: Utf8PathBuf,
    _dir: tempfile::TempDir,
}

fn door() -> Door {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().join("users.toml")).unwrap();
    for (name, role) in [("ada", Role::Administrator), ("bob", Role::Viewer)] {
        add_user(&path, name, &Secret::new(format!("{name}'s password")), role).unwrap();
    }
    let by_name = Certificate::named("Mgmt.example.org", Role::Operator).unwrap();
    add_certificate(&path, by_name).unwrap();
    let by_print = Certificate::named(&"ab".repeat(32), Role::Viewer).unwrap();
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
    let stranger = Err(Denied::Stranger {
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
            in_as(&format!("certificate {}", "ab".repeat(32)), Role::Viewer),
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
            in_as("bob", Role::Viewer),
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
        assert_eq!(door.login.check(&headers, certificate).await, want, "line {n}");
    }
}

#[tokio::test]
async fn whoever_is_removed_is_out_at_once() {
    let door = door();
    let bob = with_password("bob", "bob's password");
    assert!(door.login.check(&bob, None).await.is_ok());
    remove(&door.path, "bob").unwrap();
    assert!(matches!(
        door.login.check(&bob, None).await,
        Err(Denied::Wrong { .. })
    ));
    add_user(
        &door.path,
        "bob",
        &Secret::new("another one".into()),
        Role::Operator,
    )
    .unwrap();
    assert!(door.login.check(&bob, None).await.is_err());
    let bob = with_password("bob", "another one");
    assert_eq!(door.login.check(&bob, None).await.unwrap().role, Role::Operator);
}

/// Time is paused, so only a remembered password can be right without the clock of the hash.
#[tokio::test]
async fn a_password_is_remembered_for_five_minutes() {
    let door = door();
    let ada = with_password("ada", "ada's password");
    door.login.check(&ada, None).await.unwrap();
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

#[tokio::test]
async fn two_hundred_at_once_wait_in_a_bounded_queue() {
    let door = Arc::new(door());
    let all: Vec<_> = (0..200)
        .map(|n| {
            let door = door.clone();
            tokio::spawn(async move {
                let headers = with_password("eve", &format!("guess {n}"));
                door.login.check(&headers, None).await
            })
        })
        .collect();
    // Meanwhile nobody more than the two is being hashed for.
    tokio::task::yield_now().await;
    assert_eq!(door.login.at_once.available_permits(), 0);
    let (mut wrong, mut busy) = (0, 0);
    for task in all {
        match task.await.unwrap() {
            Err(Denied::Wrong { .. }) => wrong += 1,
            Err(Denied::Busy) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((wrong, busy), (WAITING, 200 - WAITING));

    // The same right password many times costs a hash or two, and the rest need no turn.
    let all: Vec<_> = (0..100)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move {
                let headers = with_password("ada", "ada's password");
                door.login.check(&headers, None).await
            })
        })
        .collect();
    for task in all {
        task.await.unwrap().unwrap();
    }
}
