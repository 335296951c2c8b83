//! Faults of storage, power, links, clocks and processes, tried on two real daemons over real files, with an oracle that
//! never asks Lifeboat. `make soak` plays the long versions; each run prints its seed, and `LIFEBOAT_SEED` replays it
//! (`LIFEBOAT_ROUNDS` changes how long it is).
//!
//! These tests need root, `/dev/fuse` and loop devices. Where they are missing they fail and say so: what could not be
//! told is no pass.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

mod acts;
mod campaign;
mod cases;
mod cuts;
mod damage;
mod encryption;
mod host;
mod judge;
mod prober;
mod report;
mod upgrade;
mod world;

use campaign::Program;
use lifeboat_faults::sandbox;
use report::{rounds, seed};

#[test]
fn fault_power_cuts_of_the_replica_lose_nothing() {
    let name = "fault_power_cuts_of_the_replica_lose_nothing";
    sandbox::run(name, || cuts::of_the_replica(name, seed(11), rounds(2)).finish());
}

#[test]
fn fault_an_encrypted_replica_is_nothing_without_its_key() {
    let name = "fault_an_encrypted_replica_is_nothing_without_its_key";
    sandbox::run(name, || encryption::of_a_replica(name, seed(51)).finish());
}

#[test]
fn fault_what_an_earlier_version_left_is_opened() {
    let name = "fault_what_an_earlier_version_left_is_opened";
    sandbox::run(name, || upgrade::open("ac8a7a9").unwrap());
}

#[test]
#[ignore = "makes the fixture LIFEBOAT_FIXTURE with LIFEBOAT_BINARY"]
fn make_a_fixture_of_a_version() {
    sandbox::run("make_a_fixture_of_a_version", || upgrade::make().unwrap());
}

#[test]
fn fault_a_file_system_without_encryption_says_the_way_out() {
    let name = "fault_a_file_system_without_encryption_says_the_way_out";
    sandbox::run(name, || encryption::of_a_file_system_without_it().unwrap());
}

#[test]
#[ignore = "100 power cuts: make soak"]
fn soak_power_cuts_of_the_replica_lose_nothing() {
    let name = "soak_power_cuts_of_the_replica_lose_nothing";
    sandbox::run(name, || {
        cuts::of_the_replica(name, seed(101), rounds(100)).finish()
    });
}

#[test]
fn fault_power_cuts_of_the_primary_lose_nothing() {
    let name = "fault_power_cuts_of_the_primary_lose_nothing";
    sandbox::run(name, || cuts::of_the_primary(name, seed(21), rounds(2)).finish());
}

#[test]
#[ignore = "100 power cuts: make soak"]
fn soak_power_cuts_of_the_primary_lose_nothing() {
    let name = "soak_power_cuts_of_the_primary_lose_nothing";
    sandbox::run(name, || {
        cuts::of_the_primary(name, seed(201), rounds(100)).finish()
    });
}

#[test]
fn fault_a_disk_that_drops_flushes_is_found_out() {
    let name = "fault_a_disk_that_drops_flushes_is_found_out";
    sandbox::run(name, || {
        cuts::of_a_disk_that_drops_flushes(name, seed(31)).finish_control()
    });
}

#[test]
fn fault_a_random_history_loses_nothing() {
    let name = "fault_a_random_history_loses_nothing";
    let program = Program {
        histories: rounds(1),
        // Each kind once.
        faults: campaign::ALL.len() as u64,
        kinds: campaign::ALL,
    };
    sandbox::run(name, || campaign::play(name, seed(41), &program).finish());
}

#[test]
#[ignore = "a hundred faults of every kind: make soak"]
fn soak_random_histories_of_all_faults_lose_nothing() {
    let name = "soak_random_histories_of_all_faults_lose_nothing";
    let program = Program {
        histories: rounds(12),
        faults: 9,
        kinds: campaign::ALL,
    };
    sandbox::run(name, || campaign::play(name, seed(401), &program).finish());
}

#[test]
#[ignore = "two dozen worlds: make soak"]
fn soak_damaged_replicas_bring_up_nothing_wrong() {
    let name = "soak_damaged_replicas_bring_up_nothing_wrong";
    sandbox::run(name, || damage::play(name, seed(501), rounds(24)).finish());
}

#[test]
#[ignore = "a case of docs/field-cases.md: make soak"]
fn soak_an_error_that_is_reported_once_is_not_forgotten() {
    let name = "soak_an_error_that_is_reported_once_is_not_forgotten";
    sandbox::run(name, || {
        cases::of_an_error_that_is_reported_once(name, seed(601), rounds(6)).finish()
    });
}

#[test]
#[ignore = "a case of docs/field-cases.md: make soak"]
fn soak_a_slow_disk_keeps_few_points_and_fails_over_quickly() {
    let name = "soak_a_slow_disk_keeps_few_points_and_fails_over_quickly";
    sandbox::run(name, || cases::of_a_slow_disk(name, seed(611)).finish());
}

#[test]
#[ignore = "a case of docs/field-cases.md: make soak"]
fn soak_a_host_that_comes_back_is_sent_to_at_once() {
    let name = "soak_a_host_that_comes_back_is_sent_to_at_once";
    sandbox::run(name, || {
        cases::of_a_host_that_comes_back(name, seed(621)).finish()
    });
}

#[test]
#[ignore = "a case of docs/field-cases.md: make soak"]
fn soak_a_planned_failover_that_was_cut_is_told_of() {
    let name = "soak_a_planned_failover_that_was_cut_is_told_of";
    sandbox::run(name, || {
        cases::of_a_command_that_was_cut(name, seed(631)).finish()
    });
}
