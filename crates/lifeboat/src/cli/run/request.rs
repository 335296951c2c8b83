//! Carries out `lifeboat request`.

use lifeboat_engine::action::{Action, Answer};

use super::{Cx, Done, strange};
use crate::cli::args::{Request, Wait};
use crate::cli::show;

pub(super) async fn run(cx: &Cx<'_>, command: &Request) -> Done {
    let wait = Wait {
        detach: false,
        follow: true,
    };
    match command {
        Request::List => {
            let Answer::Requests(requests) = cx.ask(Action::ListRequests).await? else {
                return strange();
            };
            let names = cx.names().await?;
            cx.print(&requests, || show::requests(&requests, &names, &cx.zone))
        }
        Request::Confirm { request } => {
            let done = format!("request {request} is carried out");
            cx.act(Action::ConfirmRequest { request: *request }, wait, &done)
                .await
        }
        Request::Deny { request } => {
            let done = format!("request {request} is denied; nothing is done");
            cx.act(Action::DenyRequest { request: *request }, wait, &done)
                .await
        }
    }
}
