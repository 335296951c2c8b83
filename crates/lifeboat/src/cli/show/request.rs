//! What waits for a second person, as a table.

use jiff::tz::TimeZone;
use lifeboat_engine::requests::{Request, RequestState};

use super::{Names, dash, instant, name_of, table};

/// `request list`.
pub(crate) fn requests(requests: &[Request], names: &Names, zone: &TimeZone) -> String {
    let state = |r: &Request| match &r.state {
        RequestState::Waits => format!("waits until {}", instant(r.until, zone)),
        RequestState::Confirmed { second } => format!("confirmed by {second}"),
        RequestState::NotKnown { second } => format!("confirmed by {second}; not known whether it was done"),
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
