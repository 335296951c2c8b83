//! Client certificates that are revoked while the ports are served: refused on both, and cut where they are in use.

use std::time::Duration;

use lifeboat_tls::{certificate_fingerprint, key_fingerprint};

use crate::remote_support::{basic, host, post};

const IDENTIFY: &str = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
    xmlns:i=\"http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd\">\
    <s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>";

#[tokio::test]
async fn a_revoked_client_certificate_is_refused_on_both_ports_and_its_connections_end() {
    let host = host().await;
    for (to, path) in [(host.wsman, "/wsman"), (host.cimxml, "/cimom")] {
        for by_key in [false, true] {
            std::fs::write(&host.revoked, "").unwrap();
            let client = host.authority.client("mgmt.example.org");
            let mut open = host.connect_as(to, Some(&client)).await.unwrap();
            assert_ne!(open.post(path, &[], IDENTIFY).await.status, 401);
            let mut password = host.connect(to).await;
            let credentials = basic("admin");
            let known = [("Authorization", credentials.as_str())];
            assert_ne!(password.post(path, &known, IDENTIFY).await.status, 401);

            let named = match by_key {
                true => key_fingerprint(&client.cert).unwrap(),
                false => certificate_fingerprint(&client.cert),
            };
            std::fs::write(&host.revoked, format!("# gone\n{named}\n")).unwrap();
            tokio::time::timeout(Duration::from_secs(20), open.closed())
                .await
                .expect("the open connection ends");
            // With TLS 1.3 a client knows of the refusal when it reads.
            let refused = match host.connect_as(to, Some(&client)).await {
                Ok(mut connection) => {
                    connection.try_send(&post(path, &[], IDENTIFY)).await;
                    connection.answer().await.is_none()
                }
                Err(_) => true,
            };
            assert!(refused, "{path}: the handshake was refused");
            // Who shows no certificate does not notice.
            assert_ne!(password.post(path, &known, IDENTIFY).await.status, 401);
        }
    }
    host.stop().await;
}
