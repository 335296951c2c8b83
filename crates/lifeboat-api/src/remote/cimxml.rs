//! CIM-XML onto the object manager: what each request asks for, and the document of its answer.
use std::sync::Arc;

use hyper::{Response, StatusCode};

use super::enumerations::Enumerations;
use super::http::{Body, Exchange, plain};
use crate::cim::ObjectManager;

#[derive(Clone)]
pub(crate) struct Form;

pub(crate) struct CimXml {
    manager: Arc<ObjectManager>,
    enumerations: Arc<Enumerations>,
}

pub(crate) fn options() -> Response<Body> {
    plain(StatusCode::OK)
}

impl CimXml {
    pub(crate) fn new(manager: Arc<ObjectManager>, enumerations: Arc<Enumerations>) -> Arc<Self> {
        Arc::new(Self { manager, enumerations })
    }
    pub(crate) async fn answer(&self, _exchange: Exchange) -> Response<Body> {
        plain(StatusCode::OK)
    }
}
