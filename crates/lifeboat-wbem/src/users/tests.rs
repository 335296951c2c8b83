//! The file of users: what is written is read, what is wrong is named, and nothing secret is ever shown.

use super::*;

struct Place {
    _dir: tempfile::TempDir,
    path: Utf8PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().join("users.toml")).unwrap();
    Place { _dir: dir, path }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn write(path: &Utf8Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn users_and_certificates_come_and_go() {
    let p = place();
    let sha = "AB:".repeat(31) + "CD";
    add_user(&p.path, "ada", &secret("correct horse"), Role::Administrator).unwrap();
    add_certificate(&p.path, Certificate::named(&sha, Role::Operator).unwrap()).unwrap();
    add_certificate(
        &p.path,
        Certificate::named("Mgmt.example.org", Role::Monitor).unwrap(),
    )
    .unwrap();
    let users = Users::load(&p.path).unwrap();
    let ada = users.user("ada").unwrap();
    assert!(ada.password.expose().starts_with("$argon2id$v=19$"));
    assert!(
        verify(&ada.password, &secret("correct horse")) && !verify(&ada.password, &secret("correct hors"))
    );
    assert_eq!(
        users
            .certificates
            .iter()
            .map(|c| (c.label().to_owned(), c.role))
            .collect::<Vec<_>>(),
        [
            ("ab".repeat(31) + "cd", Role::Operator),
            ("Mgmt.example.org".to_owned(), Role::Monitor)
        ]
    );
    let mode = std::fs::metadata(&p.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&p.path).unwrap();
    assert!(!text.contains("correct"), "{text}");

    let again = add_user(&p.path, "ada", &secret("another one"), Role::Monitor);
    assert!(matches!(again, Err(UsersError::Exists(_))));
    remove(&p.path, &sha.to_lowercase()).unwrap();
    remove(&p.path, "ada").unwrap();
    assert!(matches!(remove(&p.path, "ada"), Err(UsersError::Unknown(_))));
    let left = Users::load(&p.path).unwrap();
    assert_eq!((left.users.len(), left.certificates.len()), (0, 1));
    let files = std::fs::read_dir(p.path.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "nothing is left lying about");
}

#[test]
fn names_and_passwords_have_bounds() {
    let p = place();
    for name in ["", "a b", "a:b", "a\"", &"x".repeat(65)] {
        let e = add_user(&p.path, name, &secret("correct horse"), Role::Monitor);
        assert!(matches!(e, Err(UsersError::Name)), "{name}");
    }
    for password in ["", "1234567", &"x".repeat(1025)] {
        let e = add_user(&p.path, "ada", &secret(password), Role::Monitor);
        assert!(matches!(e, Err(UsersError::Password)));
    }
    assert!(!p.path.exists());
}

#[test]
fn a_wrong_file_is_refused_by_line_and_without_its_secrets() {
    let p = place();
    let good = hash(&secret("correct horse")).unwrap();
    let user = format!(
        "[[user]]\nname = \"ada\"\npassword = \"{}\"\nrole = \"viewer\"\n",
        good.expose()
    );
    let dear = good.expose().replace("m=19456", "m=4000000");
    for (text, want) in [
        (user.replace("viewer", "root"), "line 4: unknown variant `root`"),
        (user.replace("name =", "nome ="), "line 2: unknown field `nome`"),
        (format!("{user}{user}"), "two users \"ada\""),
        (
            user.replace(good.expose(), "plain text"),
            "password of \"ada\": is no argon2id hash",
        ),
        (user.replace("$argon2id$", "$argon2i$"), "is no argon2id hash"),
        (user.replace(good.expose(), &dear), "asks for more than"),
        (
            "[[certificate]]\nrole = \"viewer\"\n".into(),
            "certificate 1: name a certificate",
        ),
        (
            "[[certificate]]\nfingerprint = \"ab\"\nrole = \"viewer\"\n".into(),
            "certificate 1: name a certificate",
        ),
    ] {
        write(&p.path, &text);
        let Err(e) = Users::load(&p.path) else {
            panic!("{want} should be refused");
        };
        let e = e.to_string();
        assert!(e.contains(want), "{e}\nshould contain {want}");
        assert!(!e.contains("$m=") && !e.contains("plain text"), "{e}");
    }
    write(&p.path, &user);
    std::fs::set_permissions(&p.path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Users::load(&p.path), Err(UsersError::Exposed(_))));
    std::fs::remove_file(&p.path).unwrap();
    assert!(matches!(Users::load(&p.path), Err(UsersError::Missing(_))));
}

#[test]
fn a_change_is_seen_and_a_broken_file_changes_nothing() {
    let p = place();
    add_user(&p.path, "ada", &secret("correct horse"), Role::Monitor).unwrap();
    let watched = WatchedUsers::open(&p.path).unwrap();
    let (_, first) = watched.now();
    assert_eq!(watched.now().1, first);
    add_user(&p.path, "bob", &secret("battery staple"), Role::Operator).unwrap();
    let (users, second) = watched.now();
    assert!(users.user("bob").is_some() && second != first);
    write(&p.path, "[[user]]");
    let (users, third) = watched.now();
    assert!(users.user("bob").is_some() && third == second);
    std::fs::remove_file(&p.path).unwrap();
    assert!(watched.now().0.user("bob").is_some());
    add_user(&p.path, "eve", &secret("battery staple"), Role::Operator).unwrap();
    let (users, _) = watched.now();
    assert!(users.user("eve").is_some() && users.user("ada").is_none());
}

#[test]
fn the_word_of_old_for_a_monitor_is_read_and_the_new_one_written() {
    let p = place();
    let hash = hash(&secret("correct horse")).unwrap();
    let user = |name: &str, role: &str| {
        let hash = hash.expose();
        format!("[[user]]\nname = \"{name}\"\npassword = \"{hash}\"\nrole = \"{role}\"\n")
    };
    write(
        &p.path,
        &format!("{}{}", user("ada", "viewer"), user("bob", "tester")),
    );
    let roles = |users: &Users| users.users.iter().map(|u| u.role).collect::<Vec<_>>();
    assert_eq!(
        roles(&Users::load(&p.path).unwrap()),
        [Role::Monitor, Role::Tester]
    );
    add_user(&p.path, "eve", &secret("battery staple"), Role::Operator).unwrap();
    let text = std::fs::read_to_string(&p.path).unwrap();
    assert!(text.contains("\"monitor\"") && !text.contains("viewer"), "{text}");
}
