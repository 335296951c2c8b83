//! Settings that are refused, and what guests are told, word by word. The shell script runs here with stand-ins for the
//! programs of a guest; real guests are elsewhere.

use std::path::PathBuf;
use std::process::Command;

use super::*;

const MAC: &str = "52:54:00:12:34:56";

fn nics() -> Vec<NicSpec> {
    let nic = |mac: &str, backend| NicSpec {
        mac: mac.into(),
        backend,
    };
    vec![
        nic(MAC, NicBackend::User),
        nic("52:54:00:AB:cd:ef", NicBackend::None),
    ]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fixed() -> NicFailover {
    NicFailover {
        mac: MAC.to_uppercase(),
        addresses: vec!["10.1.2.3/24".into(), "FD00:0::3/64".into()],
        gateways: vec![ip("10.1.2.1"), ip("fe80::1")],
        dns: vec![ip("10.1.2.53"), ip("fd00::53")],
        ..NicFailover::default()
    }
}

fn dhcp() -> NicFailover {
    NicFailover {
        mac: "52:54:00:ab:cd:ef".into(),
        dhcp: true,
        dns: vec![ip("10.1.2.53")],
        ..NicFailover::default()
    }
}

#[test]
fn good_settings_are_taken() {
    validate(&[], &nics()).unwrap();
    validate(&[fixed(), dhcp()], &nics()).unwrap();
    let only_network = NicFailover {
        mac: MAC.into(),
        backend: Some(NicBackend::None),
        ..NicFailover::default()
    };
    assert!(!only_network.tells());
    validate(&[only_network], &nics()).unwrap();
}

#[test]
fn each_mistake_is_named_with_its_card() {
    type Spoil = fn(&mut Vec<NicFailover>);
    let table: [(Spoil, &str); _] = [
        (|c| c[0].mac = "52:54:00:00:00:01".into(), "no network card"),
        (|c| c[0].mac = "x".repeat(1000), "no network card"),
        (|c| c[1].mac = MAC.into(), "twice"),
        (|c| c[0].addresses[0] = "10.1.2.3".into(), "prefix length"),
        (|c| c[0].addresses[0] = "10.1.2.3/33".into(), "prefix length"),
        (|c| c[0].addresses[0] = "10.1.2.3/0".into(), "prefix length"),
        (|c| c[0].addresses[0] = "10.1.2.3/+8".into(), "prefix length"),
        (|c| c[0].addresses[0] = "10.1.2.3/08".into(), "prefix length"),
        (
            |c| c[0].addresses[0] = "10.1.2.3/24; reboot".into(),
            "prefix length",
        ),
        (|c| c[0].addresses[0] = "$(reboot)/24".into(), "prefix length"),
        (|c| c[0].addresses[0] = "fd00::1/129".into(), "prefix length"),
        (|c| c[0].addresses[0] = "fe80::1%eth0/64".into(), "prefix length"),
        (|c| c[0].addresses[0] = "0.0.0.0/24".into(), "prefix length"),
        (|c| c[0].addresses[0] = "224.0.0.1/24".into(), "prefix length"),
        (|c| c[0].addresses[0] = "::1/128".into(), "prefix length"),
        (|c| c[0].addresses = vec!["10.1.2.3/24".into(); 9], "at most 8"),
        (|c| c[0].dns = vec![ip("1.1.1.1"); 9], "at most 8"),
        (|c| c[0].dns[0] = ip("0.0.0.0"), "name server"),
        (|c| c[0].gateways[0] = ip("ff02::1"), "gateway"),
        (
            |c| c[0].gateways[1] = ip("10.1.2.2"),
            "more than one IPv4 gateway",
        ),
        (|c| drop(c[0].addresses.pop()), "IPv6 address"),
        (|c| c[1].addresses.push("10.1.2.4/24".into()), "DHCP"),
        (|c| c[1].gateways.push(ip("10.1.2.1")), "DHCP"),
        (
            |c| c[1].test_backend = Some(NicBackend::Tap { ifname: "a b".into() }),
            "ifname",
        ),
    ];
    for (spoil, word) in table {
        let mut cards = vec![fixed(), dhcp()];
        spoil(&mut cards);
        let e = validate(&cards, &nics()).unwrap_err().to_string();
        assert!(e.contains(word) && e.len() < 250, "{e} should contain {word}");
    }
    assert!(
        validate(&[fixed()], &[])
            .unwrap_err()
            .to_string()
            .contains("none")
    );
}

#[test]
fn cards_are_connected_as_told_and_a_test_to_nothing_else() {
    let tap = |n: &str| NicBackend::Tap { ifname: n.into() };
    let set = NicFailover {
        backend: Some(tap("dr0")),
        test_backend: Some(tap("test0")),
        ..fixed()
    };
    let backends = |nics: Vec<NicSpec>| nics.into_iter().map(|n| n.backend).collect::<Vec<_>>();
    for (cards, live, test) in [
        (
            vec![],
            vec![NicBackend::User, NicBackend::None],
            vec![NicBackend::None, NicBackend::None],
        ),
        (
            vec![fixed(), dhcp()],
            vec![NicBackend::User, NicBackend::None],
            vec![NicBackend::None, NicBackend::None],
        ),
        (
            vec![set],
            vec![tap("dr0"), NicBackend::None],
            vec![tap("test0"), NicBackend::None],
        ),
    ] {
        assert_eq!(backends(failed_over(&nics(), &cards)), live);
        assert_eq!(backends(in_test(&nics(), &cards)), test);
    }
    let macs = |nics: Vec<NicSpec>| nics.into_iter().map(|n| n.mac).collect::<Vec<_>>();
    assert_eq!(macs(in_test(&nics(), &[fixed()])), macs(nics()));
}

#[test]
fn linux_is_told_by_arguments_alone() {
    let commands = linux(&[fixed(), dhcp()]).unwrap();
    let told: Vec<_> = commands
        .iter()
        .map(|c| (c.arguments[1].as_str(), c.arguments[3..].join(" ")))
        .collect();
    let want = [
        (
            LINK_SH,
            "52:54:00:12:34:56 static address 10.1.2.3/24 address fd00::3/64 gateway 10.1.2.1 gateway fe80::1 dns 10.1.2.53 dns fd00::53",
        ),
        (LINK_SH, "52:54:00:ab:cd:ef dhcp dns 10.1.2.53"),
        (RESOLVER_SH, "10.1.2.53 fd00::53"),
    ];
    assert_eq!(told, want.map(|(script, values)| (script, values.to_owned())));
    assert!(
        commands
            .iter()
            .all(|c| c.program == "/bin/sh" && c.arguments[0] == "-c")
    );
    assert!(
        linux(&[NicFailover {
            mac: MAC.into(),
            ..NicFailover::default()
        }])
        .unwrap()
        .is_empty()
    );
}

#[test]
fn windows_is_told_in_quoted_words() {
    let commands = windows(&[fixed(), dhcp()]).unwrap();
    let told: Vec<_> = commands
        .iter()
        .map(|c| c.arguments.last().unwrap().lines().last().unwrap())
        .collect();
    let want = [
        "} '52-54-00-12-34-56' 'static' '10.1.2.3/24,fd00::3/64' '10.1.2.1,fe80::1' '10.1.2.53,fd00::53'",
        "} '52-54-00-AB-CD-EF' 'dhcp' '' '' '10.1.2.53'",
    ];
    assert_eq!(told, want);
    assert!(
        !LINK_PS1.contains('"'),
        "quotes of both kinds do not survive every way to PowerShell"
    );
}

#[test]
fn a_seed_says_the_same() {
    assert!(
        no_cloud(
            &[NicFailover {
                mac: MAC.into(),
                ..NicFailover::default()
            }],
            "x"
        )
        .unwrap()
        .is_empty()
    );
    let files = no_cloud(&[fixed(), dhcp()], "b1").unwrap();
    let names: Vec<_> = files.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["meta-data", "user-data", "network-config"]);
    assert_eq!(files[0].1, "instance-id: \"lifeboat-b1\"\n");
    let want = r#"version: 2
ethernets:
  nic0:
    match:
      macaddress: "52:54:00:12:34:56"
    dhcp4: false
    addresses:
      - "10.1.2.3/24"
      - "fd00::3/64"
    routes:
      - to: "0.0.0.0/0"
        via: "10.1.2.1"
      - to: "::/0"
        via: "fe80::1"
    nameservers:
      addresses:
        - "10.1.2.53"
        - "fd00::53"
  nic1:
    match:
      macaddress: "52:54:00:ab:cd:ef"
    dhcp4: true
    nameservers:
      addresses:
        - "10.1.2.53"
"#;
    assert_eq!(files[2].1, want);
}

/// Runs the script on this machine's loopback card, with programs that only say how they were called.
fn played(name: &str, programs: &[(&str, &str)], values: &[&str]) -> (Option<i32>, String) {
    let dir: PathBuf = std::env::temp_dir().join(format!("lifeboat-link-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("cat"), "#!/bin/sh\nPATH=/usr/bin:/bin exec cat \"$@\"\n").unwrap();
    std::fs::write(
        dir.join("grep"),
        "#!/bin/sh\nPATH=/usr/bin:/bin exec grep \"$@\"\n",
    )
    .unwrap();
    for (program, body) in programs {
        let text = format!(
            "#!/bin/sh\necho {program} \"$@\" >>'{}/told'\n{body}\n",
            dir.display()
        );
        std::fs::write(dir.join(program), text).unwrap();
    }
    for file in std::fs::read_dir(&dir).unwrap() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(file.unwrap().path(), mode).unwrap();
    }
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", LINK_SH, "lifeboat"])
        .args(values)
        .env_clear()
        .env("PATH", &dir);
    let status = command.output().unwrap().status.code();
    let told = std::fs::read_to_string(dir.join("told")).unwrap_or_default();
    std::fs::remove_dir_all(&dir).unwrap();
    (status, told)
}

const LOOPBACK: &str = "00:00:00:00:00:00";

#[test]
fn the_script_speaks_ip() {
    let values = [
        LOOPBACK,
        "static",
        "address",
        "10.1.2.3/24",
        "address",
        "fd00::3/64",
        "address",
        "10.1.2.4/24",
        "gateway",
        "10.1.2.1",
        "dns",
        "10.1.2.53",
        "dns",
        "fd00::53",
    ];
    let (status, told) = played("ip", &[("ip", ""), ("resolvectl", "")], &values);
    let want = "\
ip link set dev lo up
ip -4 address flush dev lo scope global
ip -4 address add 10.1.2.3/24 dev lo
ip -4 address add 10.1.2.4/24 dev lo
ip -4 route replace default via 10.1.2.1 dev lo
ip -6 address flush dev lo scope global
ip -6 address add fd00::3/64 dev lo
resolvectl dns lo 10.1.2.53 fd00::53
";
    assert_eq!((status, told.as_str()), (Some(0), want));
    // One family leaves the other alone.
    let (status, told) = played(
        "one",
        &[("ip", "")],
        &[LOOPBACK, "static", "address", "fd00::3/64"],
    );
    assert_eq!(status, Some(0));
    assert!(
        told.contains("-6 address add fd00::3/64") && !told.contains("-4"),
        "{told}"
    );
}

#[test]
fn the_script_asks_whichever_client_there_is() {
    let (status, told) = played("udhcpc", &[("ip", ""), ("udhcpc", "")], &[LOOPBACK, "dhcp"]);
    assert_eq!(status, Some(0));
    assert!(told.ends_with("udhcpc -n -q -i lo\n"), "{told}");
    let (status, told) = played("none", &[("ip", "")], &[LOOPBACK, "dhcp"]);
    assert_eq!(status, Some(4), "{told}");
    let nm = "case $* in *RUNNING*) echo running ;; *DEVICE,STATE*) echo lo:connected ;; esac";
    let (status, told) = played(
        "nm",
        &[("ip", ""), ("nmcli", nm)],
        &[LOOPBACK, "static", "address", "10.1.2.3/24"],
    );
    assert_eq!(status, Some(0));
    assert!(
        told.contains("ipv4.method manual ipv4.addresses 10.1.2.3/24\n"),
        "{told}"
    );
    assert!(
        told.ends_with("nmcli connection up lifeboat-lo\n") && !told.contains("ip "),
        "{told}"
    );
}

#[test]
fn the_script_says_what_is_wrong() {
    let (status, _) = played("card", &[("ip", "")], &[MAC, "static", "address", "10.1.2.3/24"]);
    assert_eq!(status, Some(3), "no such card");
    let (status, told) = played(
        "fails",
        &[("ip", "exit 2")],
        &[LOOPBACK, "static", "address", "10.1.2.3/24"],
    );
    assert_eq!(status, Some(2), "{told}");
    // Nothing in a value is ever a command.
    let (_, told) = played(
        "quote",
        &[("ip", ""), ("reboot", "")],
        &[LOOPBACK, "static", "address", "$(reboot);`reboot`"],
    );
    assert!(!told.lines().any(|l| l.starts_with("reboot")), "{told}");
}
