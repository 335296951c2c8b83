//! Two real daemons with real guests. One program for all of these tests, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "stories may fail their helpers")]

mod addresses;
mod attacks;
mod attacks_guest;
mod attacks_paths;
mod cim;
mod copies;
mod crashes;
mod extended;
mod field;
mod first_light;
mod lifecycle;
mod lifecycle_crashes;
mod limits;
mod media;
mod settings;
mod support;
mod uefi;
