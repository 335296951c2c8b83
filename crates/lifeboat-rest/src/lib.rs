//! The management surface for people and scripts on this host: REST over a Unix socket, and the client for it.
//!
//! [`routes::ROUTES`] is the whole surface as data. A request is put together into one
//! [`Action`](lifeboat_engine::action::Action), its answer is taken apart again; the same table makes the router, the
//! client and the OpenAPI document, so that none of them can know something the others do not. What is deliberately
//! absent: any decision of our own. Other management protocols, users and roles do not belong here either: who may connect is
//! answered by the kernel's word about the process on the other end of the socket.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod accounts;
pub mod client;
mod http;
pub mod openapi;
pub mod routes;
mod schema;
mod server;

pub use client::{Client, ClientError, JobFollower};
pub use server::{Admission, BindError, Server};
