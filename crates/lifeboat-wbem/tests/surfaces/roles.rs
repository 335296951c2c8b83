//! What the documents say of methods and of the roles that they need, against the table of methods.

use std::collections::BTreeSet;

use lifeboat_wbem::cim::methods::METHODS;

use crate::documents::{compare, table};

#[test]
fn the_documents_say_which_methods_each_role_may_call() {
    let mut methods = BTreeSet::new();
    for (class, entries) in METHODS {
        for entry in *entries {
            let name = match *class {
                "Msvm_ReplicationService" => format!("`{}`", entry.method),
                class => format!("`{class}.{}`", entry.method),
            };
            methods.insert((entry.role, name));
        }
    }
    compare("wmi.md", "methods", &table("methods", &methods));
}
