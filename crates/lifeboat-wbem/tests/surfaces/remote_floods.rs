//! More connections than there are places, and guessed passwords: who is answered all the same. Numbers are small here; the
//! default ones are measured by `lifeboat-bench`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lifeboat_wbem::{Cap, Limits, Places};
use tokio::io::AsyncReadExt;

use crate::remote_support::{Answer, HERE, Host, THERE, basic, basic_with, host, host_within, socket};

const IDENTIFY: &str = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
    xmlns:i=\"http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd\">\
    <s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>";

fn few() -> Limits {
    Limits {
        places: Places {
            silent: Cap { total: 8, each: 4 },
            handshaking: Cap { total: 4, each: 2 },
            strangers: Cap { total: 4, each: 2 },
            known: Cap { total: 4, each: 2 },
        },
        ..Limits::default()
    }
}

fn ports(host: &Host) -> [(SocketAddr, &'static str); 2] {
    [(host.wsman, "/wsman"), (host.cimxml, "/cimom")]
}

async fn login(host: &Host, from: Ipv4Addr, to: SocketAddr, path: &str, authorization: &str) -> Answer {
    let mut c = host.connect_from(from, to, None).await.unwrap();
    c.post(path, &[("Authorization", authorization)], IDENTIFY).await
}

#[tokio::test]
async fn half_open_connections_from_there_and_here_keep_nobody_out() {
    let host = host_within(few(), true).await;
    for (to, path) in ports(&host) {
        let mut silent = Vec::new();
        for from in [THERE, HERE] {
            for _ in 0..50 {
                silent.push(socket(from, to).await.unwrap());
            }
        }
        assert_ne!(login(&host, HERE, to, path, &basic("viewer")).await.status, 401);
        // All but the youngest of each address have lost their place for others, long before their time is over.
        for at in [0, 50] {
            for stream in &mut silent[at..at + 46] {
                assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
            }
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn slow_heads_of_strangers_keep_nobody_out_and_drop_nobody_who_has_logged_in() {
    for tls in [true, false] {
        let limits = Limits {
            strangers: Duration::from_secs(4),
            ..few()
        };
        let host = host_within(limits, tls).await;
        for (to, path) in ports(&host) {
            let connect = async |from| match tls {
                true => host.connect_from(from, to, None).await.unwrap(),
                false => host.connect_plainly(to).await,
            };
            let viewer = basic("viewer");
            let auth = [("Authorization", viewer.as_str())];
            let mut early = connect(HERE).await;
            assert_ne!(early.post(path, &auth, IDENTIFY).await.status, 401);
            let mut slow = Vec::new();
            for from in [THERE, HERE] {
                for _ in 0..20 {
                    let mut c = connect(from).await;
                    // It may have been dropped for the one before.
                    c.try_send("POST /wsman HTTP/1.1\r\nX-Slow: ").await;
                    slow.push(c);
                }
            }
            let mut late = connect(HERE).await;
            assert_ne!(late.post(path, &auth, IDENTIFY).await.status, 401);
            assert_ne!(early.post(path, &auth, IDENTIFY).await.status, 401);
            for mut c in slow {
                assert!(c.closed().await);
            }
            // Those who have logged in are not shown out with them.
            assert_ne!(late.post(path, &auth, IDENTIFY).await.status, 401);
        }
        host.stop().await;
    }
}

#[tokio::test]
async fn credentials_that_come_late_are_late() {
    let limits = Limits {
        strangers: Duration::from_millis(300),
        ..Limits::default()
    };
    let host = host_within(limits, true).await;
    let mut c = host.connect(host.wsman).await;
    // Asking without credentials does not make a stranger known.
    assert_eq!(c.post("/wsman", &[], IDENTIFY).await.status, 401);
    assert!(c.closed().await);
    host.stop().await;
}

#[tokio::test]
async fn wrong_passwords_put_off_the_account_there_and_nothing_else() {
    let host = host().await;
    let [(wsman, path), (cimxml, other)] = ports(&host);
    // Four at least are looked at: three are free.
    let mut tries = 0;
    let put_off = loop {
        let answer = login(&host, THERE, wsman, path, &basic_with("admin", "a guess")).await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 401);
        tries += 1;
    };
    assert!(tries >= 4, "{tries}");
    let wait: u64 = put_off.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Both protocols count together, and further guesses make it longer.
    for guess in 0..8 {
        let guess = basic_with("admin", &format!("guess {guess}"));
        loop {
            let answer = login(&host, THERE, cimxml, other, &guess).await;
            if answer.status == 401 {
                tries += 1;
            }
            if answer.status == 429 || tries > 100 {
                break;
            }
        }
    }
    assert!(tries < 100, "{tries}");
    // Not for others there, not for the account elsewhere, and not for what is remembered then.
    assert_eq!(
        login(&host, THERE, wsman, path, &basic("viewer")).await.status,
        200
    );
    assert_eq!(login(&host, HERE, wsman, path, &basic("admin")).await.status, 200);
    assert_eq!(
        login(&host, THERE, wsman, path, &basic("admin")).await.status,
        200
    );
    // Nor for certificates.
    let known = host.authority.client("mgmt.example.org");
    let mut c = host.connect_from(THERE, wsman, Some(&known)).await.unwrap();
    let soap = ("Content-Type", "application/soap+xml;charset=UTF-8");
    assert_eq!(c.post(path, &[soap], IDENTIFY).await.status, 200);
    host.stop().await;
}
