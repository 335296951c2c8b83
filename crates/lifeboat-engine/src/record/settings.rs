//! What is remembered of this host as a replica server, and of whom it lets in.

use super::Record;
use lifeboat_model::settings::{MONITORING_INTERVAL_S, MONITORING_START_MIN};
use lifeboat_model::{AuthorizationEntry, Bandwidth};
use serde::{Deserialize, Serialize};

/// This host as a replica server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSettings {
    /// Whether replicas are taken (`RecoveryServerEnabled`).
    pub enabled: bool,
    /// Length of a monitoring window in seconds, 3,600 to 604,800 (`MonitoringInterval`).
    pub monitoring_interval_s: u32,
    /// When windows begin, in minutes of the local day, 0 to 1,439 (`MonitoringStartTime`).
    pub monitoring_start_min: u16,
    /// Limit for everything this host sends, in bytes per second; 0 is unlimited.
    pub bandwidth: Bandwidth,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            monitoring_interval_s: MONITORING_INTERVAL_S,
            monitoring_start_min: MONITORING_START_MIN,
            bandwidth: Bandwidth::default(),
        }
    }
}

impl Record for ServerSettings {
    const REQUIRED: &'static [&'static str] = &[];
}

impl Record for AuthorizationEntry {
    const REQUIRED: &'static [&'static str] = &[];
}
