//! The management API as its clients meet it: CIM over both protocols, indications. One program for all of these tests, so that it
//! is linked once.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]
#![allow(unreachable_pub, reason = "shared by the modules of this program")]

mod cim_methods;
mod cim_views;
#[path = "../../../lifeboat-rest/tests/surfaces/documents.rs"]
mod documents;
mod facts;
mod indications;
mod indications_remote;
mod many;
mod remote_calls;
mod remote_cimxml;
mod remote_floods;
mod remote_http;
mod remote_revoked;
mod remote_roles;
mod remote_support;
mod remote_wsman;
mod roles;
