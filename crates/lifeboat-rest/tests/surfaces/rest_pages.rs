//! Lists in pages as clients of the socket meet them: the client that follows them, and one that knows nothing of them. What
//! is on a page is the engine's business.

use camino::Utf8Path;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lifeboat_engine::action::{Action, Answer, JobView, Refusal};
use lifeboat_engine::paging::{Page, Paging};
use lifeboat_engine::query::Query;
use lifeboat_rest::Client;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::rest::{fitting, host};
use crate::samples;

/// What a plain client gets from an address: the status, the address of the next page, and the body.
pub(crate) async fn get(socket: &Utf8Path, target: &str) -> (StatusCode, Option<String>, Bytes) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(target).header("host", "x");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (status, link) = (response.status(), response.headers().get("link").cloned());
    let next = link.map(|l| {
        let link = l.to_str().unwrap();
        let target = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"");
        target.unwrap().to_owned()
    });
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, next, body)
}

/// 23 jobs in pages of five.
fn counted(action: &Action) -> Result<Answer, Refusal> {
    let Action::ListJobs(paging) = action else {
        return fitting(action);
    };
    let from = paging.after.as_ref().map_or(0, |n| n.parse::<usize>().unwrap());
    let job = |n: usize| JobView {
        detail: n.to_string(),
        ..samples::job()
    };
    let items = (from..23.min(from + 5)).map(job).collect();
    let next = (from + 5 < 23).then(|| (from + 5).to_string());
    Ok(Answer::Jobs(Page { items, next }))
}

#[tokio::test]
async fn the_client_follows_pages_to_the_end_of_a_list() {
    let host = host(counted);
    let client = Client::new(&host.socket);
    for (enough, pages, there) in [(usize::MAX, 5, 23), (11, 3, 15), (5, 1, 5), (1, 1, 5)] {
        let list = Query::list_jobs(Paging::FIRST);
        let jobs = client.gather(list, enough).await.unwrap();
        let told: Vec<_> = jobs.iter().map(|j| j.detail.clone()).collect();
        let want: Vec<_> = (0..there).map(|n: usize| n.to_string()).collect();
        assert_eq!(told, want, "{enough}");
        let asked = std::mem::take(&mut *host.fake.asked.lock().unwrap());
        assert_eq!(asked.len(), pages, "{enough}");
    }
}

#[tokio::test]
async fn a_client_without_paging_gets_the_first_page_and_the_address_of_the_next() {
    let host = host(counted);
    let (status, next, body) = get(&host.socket, "/api/v1/jobs").await;
    let jobs: Vec<Value> = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, jobs.len()), (StatusCode::OK, 5));
    assert_eq!(next.unwrap(), "/api/v1/jobs?after=5");
    let (_, next, _) = get(&host.socket, "/api/v1/jobs?limit=7&after=5").await;
    assert_eq!(next.unwrap(), "/api/v1/jobs?limit=7&after=10");
    let (_, next, _) = get(&host.socket, "/api/v1/jobs?after=20").await;
    assert_eq!(next, None);
}

#[tokio::test]
async fn a_list_that_never_ends_is_an_error() {
    let host = host(|action| match action {
        Action::ListJobs(_) => {
            let (items, next) = (vec![samples::job()], Some("again".to_owned()));
            Ok(Answer::Jobs(Page { items, next }))
        }
        _ => fitting(action),
    });
    let list = Query::list_jobs(Paging::FIRST);
    let error = Client::new(&host.socket).gather(list, usize::MAX).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a list goes on where it was"), "{error}");
}
