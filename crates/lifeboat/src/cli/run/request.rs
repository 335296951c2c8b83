//! Carries out `lifeboat request`.

use lifeboat_engine::action::Action;
use lifeboat_engine::query::Query;

use super::{Cx, Done};
use crate::cli::args::{Request, Wait};
use crate::cli::show;

pub(super) async fn run(cx: &Cx<'_>, command: &Request) -> Done {
    let wait = Wait {
        detach: false,
        follow: true,
    };
    match command {
        Request::List => {
            let requests = cx.query(Query::list_requests()).await?;
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
