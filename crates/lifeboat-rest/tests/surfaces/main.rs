//! REST as its clients meet it. One program for all of these tests, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]
#![allow(unreachable_pub, reason = "shared by the modules of this program")]

mod documents;
mod follow;
mod many;
mod queries;
mod rest;
mod rest_four_eyes;
mod rest_pages;
mod roles;
mod samples;
