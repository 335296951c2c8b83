//! The management surfaces as their clients meet them: REST, CIM over both protocols, indications. One program for all of these
//! tests, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]
#![allow(unreachable_pub, reason = "shared by the modules of this program")]

mod cim_methods;
mod cim_views;
mod indications;
mod indications_remote;
mod many;
mod remote_cimxml;
mod remote_floods;
mod remote_http;
mod remote_revoked;
mod remote_roles;
mod remote_support;
mod remote_wsman;
mod rest;
mod rest_four_eyes;
mod rest_pages;
mod roles;
mod samples;
