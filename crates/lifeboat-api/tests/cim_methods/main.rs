//! Every method of the management API, called as the protocols call it, on real engines in a simulated world.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]
#![allow(unreachable_pub, reason = "shared by the modules of this test")]

mod conformance;
mod pending;
mod stories;
mod table;
mod world;
