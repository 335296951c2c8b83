//! WS-Management onto the object manager: what each request asks for, and the envelope of its answer.
use std::sync::Arc;

use hyper::{HeaderMap, Response, StatusCode};

use super::enumerations::Enumerations;
use super::http::{Body, Exchange, plain};
use crate::cim::ObjectManager;

#[derive(Clone)]
pub(crate) struct Form;

pub(crate) struct Wsman {
    manager: Arc<ObjectManager>,
    enumerations: Arc<Enumerations>,
}

pub(crate) fn identifies_itself(headers: &HeaderMap) -> bool {
    headers
        .get("wsmanidentify")
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"unauthenticated"))
}

impl Wsman {
    pub(crate) fn new(manager: Arc<ObjectManager>, enumerations: Arc<Enumerations>) -> Arc<Self> {
        Arc::new(Self { manager, enumerations })
    }
    pub(crate) fn introduce(&self, _body: &[u8], _charset: Option<&str>) -> Option<Response<Body>> {
        None
    }
    pub(crate) async fn answer(&self, _exchange: Exchange) -> Response<Body> {
        plain(StatusCode::OK)
    }
}
