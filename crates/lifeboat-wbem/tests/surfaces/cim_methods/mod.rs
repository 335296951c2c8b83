//! Every method of the management API, called as the protocols call it, on real engines in a simulated world.

mod calls;
mod conformance;
mod pending;
mod roles;
mod stories;
mod table;
mod world;
