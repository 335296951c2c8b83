//! Listeners that are none, or mean no good: what they can cost.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn client(attempt: Duration) -> Client {
    let patience = Patience {
        attempt,
        ..Patience::default()
    };
    Client::new(None, Destinations::default().and_loopback(), patience)
}

/// What a daemon has whose administrator has listed these.
fn listing(entries: &[&str]) -> Client {
    Client::new(None, Destinations::parse(entries).unwrap(), Patience::default())
}

/// A listener that does this with its only caller; where it is.
async fn listener<F>(behave: impl FnOnce(TcpStream) -> F + Send + 'static) -> Destination
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { behave(listener.accept().await.unwrap().0).await });
    let url = format!("http://127.0.0.1:{port}/here?x=1");
    client(Duration::from_secs(1)).destination(&url).await.unwrap()
}

async fn post(attempt: Duration, to: &Destination) -> Result<String, DeliveryError> {
    let fields = [("content-type", "text/plain")];
    client(attempt).post(to, &fields, "a document".to_owned()).await
}

const LONG: Duration = Duration::from_secs(30);

/// Reads the request to its end.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with("a document") {
        let n = stream.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

#[tokio::test]
async fn what_is_posted_arrives_and_the_answer_comes_back() {
    let to = listener(|mut stream| async move {
        let text = request(&mut stream).await;
        assert!(text.starts_with("POST /here?x=1 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("content-length: 10\r\n"), "{text}");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    assert_eq!(post(LONG, &to).await.unwrap(), "taken");
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let to = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let error = post(LONG, &to).await.unwrap_err();
    assert!(matches!(error, DeliveryError::TooLong), "{error}");
    let to = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream
            .write_all(&[b"X: ", [b'x'; 4096].as_slice(), b"\r\n"].concat())
            .await
            .is_ok()
        {}
    })
    .await;
    let error = post(LONG, &to).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Http(_)), "{error}");
}

#[tokio::test]
async fn who_never_answers_is_left_in_time() {
    let to = listener(|mut stream| async move {
        request(&mut stream).await;
        // The end of the connection is what this waits for.
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let error = post(Duration::from_millis(200), &to).await.unwrap_err();
    assert!(matches!(error, DeliveryError::TimedOut(_)), "{error}");
}

#[tokio::test]
async fn errors_and_redirects_are_refusals() {
    for status in ["500 No", "302 Found\r\nLocation: http://127.0.0.1:1/", "404 No"] {
        let to = listener(move |mut stream| async move {
            request(&mut stream).await;
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let error = post(LONG, &to).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Status(s) if status.starts_with(s.as_str())));
    }
}

#[tokio::test]
async fn a_closed_door_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let to = client(LONG).destination(&url).await.unwrap();
    assert!(matches!(post(LONG, &to).await, Err(DeliveryError::Io(_))));
}

#[tokio::test]
async fn where_indications_may_go() {
    let plain = client(LONG);
    for url in [
        "http://127.0.0.1:5988",
        "http://localhost/x",
        "http://[::1]:80/",
        "http://127.9.9.9:1/",
    ] {
        let found = plain.destination(url).await;
        found.unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    for url in [
        "",
        "nonsense",
        "ftp://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "http:///x",
        "/x",
        "https://example.org/",
    ] {
        let error = plain.destination(url).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Url(_)), "{url}");
    }
    let long = format!("http://127.0.0.1/{}", "x".repeat(MAX_URL));
    assert!(plain.destination(&long).await.is_err());
    let six = Destination::parse("https://[::1]/a").unwrap();
    assert_eq!((six.authority().as_str(), six.port), ("[::1]:443", 443));
}

#[tokio::test]
async fn nothing_is_sent_to_this_host_or_its_wire_however_they_are_spelled() {
    let listed = listing(&["0.0.0.0/0", "::/0", "nms.example.org"]);
    for host in [
        "127.0.0.1",
        "127.1",
        "127.9.9.9",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "localhost",
        "LOCALHOST.",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "0",
        "[::]",
        "169.254.169.254",
        "2852039166",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        // As it is when the listener is made ...
        let to = Destination::parse(&format!("https://{host}:1/")).unwrap();
        let error = listed.addresses(&to).await.unwrap_err();
        let never = |why: &NotAdmitted| matches!(why, NotAdmitted::Never(_));
        assert!(
            matches!(&error, DeliveryError::NotAdmitted { why, .. } if never(why)),
            "{host}: {error}"
        );
        // ... and when the name leads there only later.
        let error = listed.post(&to, &[], String::new()).await.unwrap_err();
        assert!(
            matches!(error, DeliveryError::NotAdmitted { .. }),
            "{host}: {error}"
        );
    }
}

#[tokio::test]
async fn a_listener_that_is_not_listed_is_not_even_asked_for() {
    // Longer than a name's part can be: no server is asked for it.
    let no_name = format!("https://{}.invalid/", "x".repeat(64));
    for (entries, url, word) in [
        (&[][..], "https://192.0.2.1/", "sends indications nowhere"),
        (&[], "https://nms.invalid/", "sends indications nowhere"),
        (&["nms.example.org"], "https://other.invalid/", "not listed"),
        (&["10.0.0.0/8"], "https://11.0.0.1/", "not listed"),
        (&["10.0.0.0/8"], &no_name, "cannot be resolved"),
    ] {
        let to = Destination::parse(url).unwrap();
        let error = listing(entries).addresses(&to).await.unwrap_err().to_string();
        assert!(error.contains(word), "{url}: {error}");
    }
    let to = Destination::parse("https://10.1.2.3:7/").unwrap();
    let found = listing(&["10.0.0.0/8"]).addresses(&to).await.unwrap();
    assert_eq!(found, ["10.1.2.3:7".parse().unwrap()]);
    // Whatever is listed, nothing leaves this host readable.
    let error = listing(&["10.0.0.0/8"]).destination("http://10.1.2.3/").await;
    assert!(error.unwrap_err().to_string().contains("https only"));
}
