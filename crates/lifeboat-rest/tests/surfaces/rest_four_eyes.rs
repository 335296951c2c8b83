//! A wish that waits for a second person, over the management socket: real sockets, a real engine in the simulated world, and
//! the kernel's word on who asks.

use camino::Utf8PathBuf;
use lifeboat_engine::action::{Action, Answer, Management};
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_rest::{Admission, Client, ClientError, Server};
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, four_eyes};
use tokio_util::sync::CancellationToken;

/// The whole way: what the kernel says of this process, the engine that waits, and the client that is told.
#[tokio::test]
async fn a_request_of_root_waits_and_one_user_on_the_socket_counts_once() {
    let world = World::new(5).await;
    four_eyes(&world, &[PRIMARY]).await;
    let engine = world.engine(PRIMARY).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = Utf8PathBuf::from_path_buf(dir.path().join("lifeboat.sock")).unwrap();
    let server = Server::bind(&socket, Admission::local(None)).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.serve(engine.clone(), stop.clone()));
    let client = Client::new(&socket);
    let entries = || world.shared.state().hosts[PRIMARY].catalog.entries.len();
    let before = entries();
    let remove = Action::RemoveAuthorization { primary: "b".into() };
    let refused = |answer: Result<Answer, ClientError>| match answer {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let waits = refused(client.perform(&remove).await);
    let request = waits.request.unwrap();
    assert_eq!(waits.code, ReturnCode::AccessDenied);
    let confirm = hint::Again::Confirm { request };
    assert_eq!(waits.hint, Some(confirm.into()), "{waits:?}");
    let listed = client.query(&Query::list_requests()).await.unwrap();
    assert_eq!(listed.iter().map(|r| r.id).collect::<Vec<_>>(), [request]);
    assert_eq!(
        listed[0].by.account.as_ref().map(|a| a.uid),
        Some(rustix::process::geteuid().as_raw())
    );
    // The same user by another connection.
    let again = refused(client.perform(&Action::ConfirmRequest { request }).await);
    assert_eq!(
        (again.code, again.request, entries()),
        (ReturnCode::AccessDenied, None, before)
    );
    client.perform(&Action::DenyRequest { request }).await.unwrap();
    assert_eq!(client.query(&Query::list_requests()).await.unwrap(), []);
    // A user of the management API, whom only the engine can be told of here; another user of this host may be root.
    let request = refused(client.perform(&remove).await).request.unwrap();
    let other = By {
        surface: Surface::Wsman,
        name: "bob".into(),
        from: None,
        account: None,
        confirmed: None,
    };
    let done = engine
        .perform(Some(other), Action::ConfirmRequest { request })
        .await;
    assert_eq!((done, entries()), (Ok(Answer::Done), before - 1));
    stop.cancel();
    task.await.unwrap();
}
