//! What a person sees: the real command against a real REST server with a scripted engine, held by golden files in
//! `tests/golden`. What the engine would do is not tested here. `UPDATE_GOLDEN=1` writes the files anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod world;

use std::process::Stdio;

use lifeboat_engine::action::{Action, PointSelector, VmRef};
use lifeboat_model::{JobState, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{Host, golden};

/// Everything that only shows something.
const LOOKS: &[&str] = &[
    "vm list",
    "vm show web",
    "vm show mail",
    "replication status",
    "replication status db",
    "replication status mail",
    "replication status idle",
    "replication status old",
    "replication status shop",
    "replication status forum",
    "replication status wiki",
    "replication status dev",
    "replication status big",
    "replication status next",
    "replication status mid",
    "replication statistics web",
    "replication statistics big",
    "failover network web",
    "failover network dev show",
    "points mail",
    "job list",
    "job show 00000000-0000-0000-0000-0000000000a2",
    "job show 00000000-0000-0000-0000-0000000000a3",
    "request list",
    "events",
    "authorization list",
    "server show",
];

#[tokio::test]
async fn lists_and_sheets() {
    let host = Host::start();
    golden("lists", &host.transcript(LOOKS).await);
}

#[tokio::test]
async fn json_is_what_the_api_gives() {
    let host = Host::start();
    let commands = [
        "replication status --output json",
        "points mail --output json",
        "request list --output json",
        "job list --output json",
        "server show --output json",
    ];
    golden("json", &host.transcript(&commands).await);
}

/// Everything that changes something.
const ACTIONS: &[&str] = &[
    "vm start idle",
    "vm stop web --force",
    "vm pause web",
    "vm reset web",
    "replication enable idle --to b.example.org:8443 --interval 5m --history 24 --disk sys --no-compression",
    "replication start idle",
    "replication start idle --detach",
    "replication start idle --output json",
    "replication suspend web",
    "replication resume web",
    "replication now web",
    "replication retry web",
    "replication remove web",
    "replication remove web --force",
    "replication trust-key b.example.org 5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a:5a",
    "failover start mail --point 4f",
    "failover revert mail --force",
    "failover commit mail",
    "failover commit old",
    "replication enable idle --to b.example.org:8443 --application-consistent 4 --auto-resync 22:00-06:00 --bandwidth 10MiB/s --bandwidth-window 22:00-06:00=none --bandwidth-window 12:00-13:00=100Mbit/s",
    "replication enable idle --to b.example.org:8443 --auto-resync off",
    "replication set big --interval 5m --history 8 --disk data --compression off",
    "replication set big --to c.example.org:8443 --point-spacing 5m --any-point 0s --application-consistent 0 --auto-resync any --bandwidth none --bandwidth-window none",
    "replication start idle --export /media/disk",
    "replication start idle --seed",
    "replication start idle --at 2026-11-22T22:00:00Z",
    "replication cancel-copy idle",
    "replication import dev /media/disk",
    "replication resync big",
    "replication resync big --at 2026-11-22T22:00:00Z",
    "replication resync big --cancel",
    "replication reverse old",
    "replication reverse old --peer c.example.org:8443",
    "replication become-replica shop",
    "replication drop-abandoned dev",
    "replication scrub dev",
    "replication hold-points dev",
    "replication release-points dev",
    "replication reset-statistics web",
    "replication extend mid --to c.example.org:8443",
    "replication extend mid --to c.example.org:8443 --interval 15m --history 4 --point-spacing 6h --any-point 1d --bandwidth 5MiB/s",
    "replication extend mid --to c.example.org:8443 --no-start",
    "replication start mid",
    "replication cancel-copy mid --extended",
    "replication set mid --interval 15m",
    "replication resync mid",
    "replication resync mid --cancel --extended",
    "replication reset-statistics mid --extended",
    "replication allow mid a.example.org",
    "replication suspend mid --extended",
    "replication resume mid --extended",
    "replication remove mid --extended",
    "replication continue old",
    "failover start mail --force",
    "failover start web --planned",
    "failover start web --planned --no-start --force",
    "failover start web --planned --prepare",
    "failover start dev --planned",
    "failover cancel web",
    "failover cancel web --force",
    "failover start dev --test --point 4f",
    "failover start dev --test --start",
    "failover start dev --test --at 2026-11-22T10:42:07+01:00",
    "failover stop-test dev",
    "failover network web set --address 10.1.2.3/24 --address fd00::3/64 --gateway 10.1.2.1 --dns 10.1.2.1",
    "failover network web set --test-connect user",
    "failover network dev set --dhcp",
    "failover network dev set --mac 52:54:00:99:99:99 --connect tap:dev1",
    "failover network dev clear --mac 52:54:00:99:99:99",
    "failover network dev clear",
    "job follow 00000000-0000-0000-0000-0000000000a2",
    "job cancel 00000000-0000-0000-0000-0000000000a1",
    "request confirm 00000000-0000-0000-0000-0000000000b1",
    "request deny 00000000-0000-0000-0000-0000000000b1",
    "authorization add new.example.org --location /srv/replicas",
    "authorization add a.example.org --allow-start --keep-at-least 7d --locked-until 2027-03-01T00:00:00Z",
    "authorization remove a.example.org",
    "server set --replica on",
    "server set --monitoring-interval 6h --monitoring-start 6:00",
    "server set --replica off --bandwidth 1Gbit/s --bandwidth-window 08:00-18:00=10MiB/s",
    "test-connection b.example.org:8443",
];

#[tokio::test]
async fn actions_are_told_and_followed() {
    let host = Host::start();
    golden("actions", &host.transcript(ACTIONS).await);
    let asked = serde_json::to_string_pretty(&host.actions()).unwrap() + "\n";
    golden("actions-asked", &asked);
}

#[tokio::test]
async fn every_action_has_a_command() {
    let host = Host::start();
    let screenshot = format!("vm screenshot web {}", host.dir().join("screen.png"));
    for line in [LOOKS, ACTIONS, &[&screenshot]].concat() {
        host.run(line).await;
    }
    let tag = |action: &Action| serde_json::to_value(action).unwrap()["action"].clone();
    let asked: Vec<_> = host.asked().iter().map(tag).collect();
    for route in lifeboat_rest::routes::ROUTES {
        let tag = route.action;
        assert!(
            asked.iter().any(|asked| asked == tag),
            "{tag} has no command, or none in the lists above"
        );
    }
}

#[tokio::test]
async fn errors_name_the_way_out() {
    let host = Host::start();
    let commands = [
        "vm show nothing",
        "replication now db",
        "replication suspend old",
        "replication enable mail --to c.example.org:8443",
        "test-connection c.example.org:8443",
        "failover start old",
        "vm start web",
        "vm stop idle",
        "vm console idle",
        "failover start mail --at 25:00",
        "failover start mail --at 10:42 --point 4f",
        "replication enable web --to b:1 --interval 30",
        "replication enable web",
        "replication suspend wiki",
        "replication drop-abandoned old",
        "request confirm 7",
        "replication start big",
        "replication start big --export /media/disk --seed",
        "replication set big",
        "replication set idle --interval 5m",
        "replication enable web --to b:1 --bandwidth 10",
        "replication enable web --to b:1 --auto-resync 22:00",
        "replication enable web --to b:1 --bandwidth-window 22:00-06:00",
        "replication resync big --at tonight",
        "failover start web --planned --test",
        "failover start web --prepare",
        "failover start web --planned --point 4f",
        "failover network idle",
        "failover network web set",
        "failover network web set --dhcp --address 10.1.2.3/24",
        "failover network web set --connect bridge",
        "server set",
        "job show 7",
        "vm screenshot web /nowhere/x.png",
        "cert show /nowhere/host.crt",
        "serve --config /nowhere/lifeboat.toml",
        "bogus",
    ];
    let mut text = host.transcript(&commands).await;
    host.stop().await;
    text.push_str(&host.transcript(&["vm list"]).await);
    golden("errors", &text);
}

#[tokio::test]
async fn help() {
    let host = Host::start();
    let commands = [
        "--help",
        "serve --help",
        "vm --help",
        "vm stop --help",
        "vm pause --help",
        "vm console --help",
        "vm screenshot --help",
        "replication --help",
        "replication enable --help",
        "replication set --help",
        "replication start --help",
        "replication import --help",
        "replication resync --help",
        "replication reverse --help",
        "replication retry --help",
        "replication become-replica --help",
        "replication drop-abandoned --help",
        "replication scrub --help",
        "replication hold-points --help",
        "replication release-points --help",
        "replication statistics --help",
        "replication reset-statistics --help",
        "replication cancel-copy --help",
        "replication allow --help",
        "replication extend --help",
        "replication continue --help",
        "replication suspend --help",
        "replication status --help",
        "points --help",
        "failover --help",
        "failover start --help",
        "failover revert --help",
        "failover commit --help",
        "failover stop-test --help",
        "failover cancel --help",
        "failover network --help",
        "failover network web set --help",
        "failover network web clear --help",
        "job --help",
        "request --help",
        "events --help",
        "authorization --help",
        "authorization add --help",
        "server --help",
        "server set --help",
        "test-connection --help",
        "cert --help",
        "cert init --help",
        "cert issue --help",
        "cert passphrase --help",
        "cert invite --help",
        "cert enroll --help",
        "cert revoke --help",
        "user --help",
        "user add --help",
        "user add-certificate --help",
    ];
    golden("help", &host.transcript(&commands).await);
}

#[tokio::test]
async fn a_time_becomes_an_instant() {
    let host = Host::start();
    let (out, code) = host
        .run("failover start mail --at 2026-11-22T10:42:07+01:00 --no-start --detach")
        .await;
    assert_eq!(code, Some(0), "{}", out.1);
    assert!(
        out.1
            .starts_with("bringing mail up as it was at 2026-11-22 09:42:07+00:00 or just before\n"),
        "{}",
        out.1
    );
    let point = PointSelector::At(Timestamp(1_795_340_527_999));
    let want = Action::InitiateFailover {
        vm: VmRef::Text("mail".into()),
        point,
        start: false,
        force: false,
    };
    assert!(host.actions().contains(&want), "{:?}", host.actions());
}

#[tokio::test]
async fn a_picture_is_saved_or_written_out() {
    let host = Host::start();
    let file = host.dir().join("screen.png");
    let (out, code) = host.run(&format!("vm screenshot web {file}")).await;
    assert_eq!((code, out.1.contains("saved")), (Some(0), true), "{}", out.1);
    assert_eq!(std::fs::read(&file).unwrap(), b"\x89PNG pixels");
    let output = host.command("vm screenshot web -").output().await.unwrap();
    assert_eq!(output.stdout, b"\x89PNG pixels");
}

#[tokio::test]
async fn the_console_carries_bytes_both_ways_until_the_escape() {
    let host = Host::start();
    let listener = tokio::net::UnixListener::bind(host.dir().join("web.console")).unwrap();
    let mut child = host
        .command("vm console web")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut vm, _) = listener.accept().await.unwrap();
    vm.write_all(b"login: ").await.unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = [0; 7];
    screen.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"login: ");
    keys.write_all(b"root\n\x03bye\x1dnot this").await.unwrap();
    let mut typed = Vec::new();
    vm.read_to_end(&mut typed).await.unwrap();
    assert_eq!(typed, b"root\n\x03bye");
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn interrupted_following_leaves_the_job() {
    let host = Host::start();
    let mut child = host
        .command("job follow 00000000-0000-0000-0000-0000000000a1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut talk = child.stderr.take().unwrap();
    let mut first = [0; 1];
    talk.read_exact(&mut first).await.unwrap();
    host.followed().await;
    let pid = child.id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut text = String::new();
    talk.read_to_string(&mut text).await.unwrap();
    assert!(
        text.ends_with(
            "the job carries on; follow it with: lifeboat job follow 00000000-0000-0000-0000-0000000000a1\n"
        ),
        "{text}"
    );
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    assert!(
        !host
            .actions()
            .iter()
            .any(|a| matches!(a, Action::CancelJob { .. }))
    );
}

#[tokio::test]
async fn a_job_that_fails_fails_the_command() {
    let host = Host::start();
    let child = host
        .command("job follow 00000000-0000-0000-0000-0000000000a1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    host.followed().await;
    for percent in [31, 35, 42, 99] {
        host.change_job(|j| j.percent = percent);
    }
    host.change_job(|j| {
        j.state = JobState::Exception;
        j.error = Some("b.example.org: the disk is full".into());
        j.ended = Some(Timestamp(j.started.unwrap().0 + 65_000));
    });
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let last = "error: db: initial copy failed after 1m05s: b.example.org: the disk is full\n\
                hint: see: lifeboat job show 00000000-0000-0000-0000-0000000000a1\n";
    assert!(text.ends_with(last), "{text}");
    assert_eq!(output.status.code(), Some(1));
}
