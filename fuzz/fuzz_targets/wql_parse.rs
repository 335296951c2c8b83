//! Arbitrary text as WQL: a query that is read means the same after it was printed, and looking at an instance with it does
//! no harm.
#![no_main]

use lifeboat_cim::wql::{Query, SystemColumns, parse};
use lifeboat_cim::{DateTime, Instance, Schema};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let query = match parse(text) {
        Ok(query) => query,
        Err(error) => {
            assert!(error.to_string().len() < 1024, "{error}");
            return;
        }
    };
    let printed = query.to_string();
    if printed.len() <= lifeboat_cim::wql::MAX_LENGTH {
        assert_eq!(parse(&printed).as_ref(), Ok(&query), "{printed}");
    }
    let Query::Select(select) = query else { return };
    let Ok(namespace) = Schema::builtin().namespace("root/virtualization/v2") else {
        return;
    };
    let instance = Instance::new("Msvm_ConcreteJob")
        .with("InstanceID", "A")
        .with("JobState", 7_u16)
        .with("StartTime", DateTime::Instant(0));
    let system = SystemColumns {
        server: "host".to_owned(),
    };
    let _ = select.check(namespace);
    let _ = select.selects(namespace, &instance, &system);
    let _ = select.project(namespace, &instance, &system);
});
