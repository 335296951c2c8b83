//! What waits for a second person, as a table.

use jiff::tz::TimeZone;
use lifeboat_engine::action::{RequestStage, RequestView};

use super::{Names, dash, instant, name_of, table};

/// `request list`.
pub(crate) fn requests(requests: &[RequestView], names: &Names, zone: &TimeZone) -> String {
    let state = |r: &RequestView| match &r.state {
        RequestStage::Waits => format!("waits until {}", instant(r.until, zone)),
        RequestStage::Confirmed { second } => format!("confirmed by {second}"),
        RequestStage::NotKnown { second } => format!("confirmed by {second}; not known whether it was done"),
    };
    let rows = requests.iter().map(|r| {
        vec![
            r.id.to_string(),
            instant(r.asked, zone),
            dash(r.vm, |vm| name_of(vm, names)),
            r.by.to_string(),
            state(r),
            r.what.clone(),
        ]
    });
    table(&["REQUEST", "ASKED", "VM", "BY", "STATE", "WHAT"], rows)
}
