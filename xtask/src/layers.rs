//! Which crate may know which: ports and adapters, enforced. What lies inside of one, `modules` looks at.

use crate::Finding;
use crate::metadata::{Kind, Metadata};

const MODEL: &str = "lifeboat-model";
const DELTALOG: &str = "lifeboat-deltalog";
/// Untrusted XML. It knows nothing of what is written in it.
const XML: &str = "lifeboat-xml";
const CIM: &str = "lifeboat-cim";
const ENGINE: &str = "lifeboat-engine";
const SIM: &str = "lifeboat-sim";
const WORKLOAD: &str = "lifeboat-workload";
/// Faults from below and the record of what must survive them. An oracle, like the workload: it knows nothing of ours.
const FAULTS: &str = "lifeboat-faults";
/// What listeners share: how connections are accepted, and which are kept when too many come. It knows nothing of what is spoken
/// on them.
const ADMISSION: &str = "lifeboat-admission";
/// What listeners and callers share: TLS, and the certificates it is made with.
const TLS: &str = "lifeboat-tls";
/// What adapters say to a QEMU process that is there already. It answers in the types of the engine's ports, and knows no adapter.
const BLOCK: &str = "lifeboat-block";
/// What only an ioctl can do, as safe functions. It knows nothing of ours.
const KERNEL: &str = "lifeboat-kernel";
/// Not shipped: it measures the built product and, below it, single adapters.
const BENCH: &str = "lifeboat-bench";

/// What each of our crates may depend on. Adapters never appear on a right side except the binaries'.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        MODEL | XML | WORKLOAD | FAULTS | ADMISSION | KERNEL | "xtask" => &[],
        DELTALOG | TLS => &[MODEL],
        CIM => &[MODEL, XML],
        ENGINE => &[MODEL, DELTALOG],
        SIM | BLOCK | "lifeboat-catalog" => &[MODEL, DELTALOG, ENGINE],
        "lifeboat-qemu" | "lifeboat-store" => &[MODEL, DELTALOG, ENGINE, BLOCK, KERNEL],
        "lifeboat-link" => &[MODEL, DELTALOG, ENGINE, ADMISSION, TLS],
        "lifeboat-rest" => &[MODEL, DELTALOG, ENGINE, ADMISSION],
        "lifeboat-wbem" => &[MODEL, DELTALOG, ENGINE, CIM, XML, ADMISSION, TLS],
        "lifeboat" | BENCH => &[
            MODEL,
            DELTALOG,
            ENGINE,
            CIM,
            TLS,
            BLOCK,
            KERNEL,
            "lifeboat-qemu",
            "lifeboat-store",
            "lifeboat-catalog",
            "lifeboat-link",
            "lifeboat-rest",
            "lifeboat-wbem",
        ],
        _ => return None,
    })
}

pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &metadata.members {
        let Some(allowed) = allowed(&package.name) else {
            let what = "this crate has no layer yet; decide what it may depend on in xtask/src/layers.rs";
            findings.push(Finding::error(&package.name, what));
            continue;
        };
        for (kind, used) in &package.uses {
            let used = used.as_str();
            let ours = used == "lifeboat" || used == "xtask" || used.starts_with("lifeboat-");
            let for_tests = *kind == Kind::Dev && [SIM, WORKLOAD, FAULTS].contains(&used);
            if ours && !allowed.contains(&used) && !for_tests {
                let may = if allowed.is_empty() {
                    "no crate of ours".into()
                } else {
                    allowed.join(", ")
                };
                findings.push(Finding::error(
                    &package.name,
                    format!("must not depend on {used}; it may know {may} (put a port between them)"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(name: &str, uses: &[(Kind, &str)]) -> usize {
        check(&Metadata::example(name, uses)).len()
    }

    #[test]
    fn what_the_design_allows_passes() {
        assert_eq!(errors("lifeboat-model", &[(Kind::Product, "serde")]), 0);
        assert_eq!(
            errors("lifeboat-engine", &[(Kind::Product, MODEL), (Kind::Dev, SIM)]),
            0
        );
        assert_eq!(
            errors(
                "lifeboat-store",
                &[(Kind::Product, ENGINE), (Kind::Dev, WORKLOAD)]
            ),
            0
        );
        assert_eq!(errors("lifeboat", &[(Kind::Dev, FAULTS)]), 0);
        assert_eq!(errors("lifeboat-link", &[(Kind::Product, ADMISSION)]), 0);
        assert_eq!(errors("lifeboat-link", &[(Kind::Product, TLS)]), 0);
        assert_eq!(errors("lifeboat-rest", &[(Kind::Product, ADMISSION)]), 0);
        assert_eq!(errors("lifeboat-cim", &[(Kind::Product, XML)]), 0);
        assert_eq!(errors("lifeboat-store", &[(Kind::Product, KERNEL)]), 0);
        assert_eq!(errors("lifeboat-store", &[(Kind::Product, BLOCK)]), 0);
        assert_eq!(errors("lifeboat-qemu", &[(Kind::Product, BLOCK)]), 0);
        assert_eq!(errors(BLOCK, &[(Kind::Product, ENGINE)]), 0);
        assert_eq!(
            errors(
                "lifeboat",
                &[(Kind::Product, "lifeboat-qemu"), (Kind::Product, "lifeboat-wbem")]
            ),
            0
        );
    }

    #[test]
    fn what_it_forbids_is_found() {
        assert_eq!(errors("lifeboat-model", &[(Kind::Product, DELTALOG)]), 1);
        assert_eq!(errors("lifeboat-deltalog", &[(Kind::Product, ENGINE)]), 1);
        assert_eq!(errors("lifeboat-engine", &[(Kind::Product, "lifeboat-store")]), 1);
        assert_eq!(errors("lifeboat-engine", &[(Kind::Dev, "lifeboat-store")]), 1);
        assert_eq!(errors("lifeboat-store", &[(Kind::Product, "lifeboat-qemu")]), 1);
        assert_eq!(errors("lifeboat-link", &[(Kind::Product, SIM)]), 1);
        assert_eq!(errors("lifeboat-sim", &[(Kind::Product, "lifeboat-catalog")]), 1);
        assert_eq!(errors("lifeboat", &[(Kind::Product, WORKLOAD)]), 1);
        assert_eq!(errors("lifeboat", &[(Kind::Product, FAULTS)]), 1);
        assert_eq!(errors(FAULTS, &[(Kind::Product, MODEL)]), 1);
        assert_eq!(errors(ADMISSION, &[(Kind::Product, MODEL)]), 1);
        assert_eq!(errors(XML, &[(Kind::Product, MODEL)]), 1);
        assert_eq!(errors(TLS, &[(Kind::Product, ENGINE)]), 1);
        assert_eq!(errors("lifeboat-engine", &[(Kind::Product, TLS)]), 1);
        assert_eq!(errors("lifeboat-engine", &[(Kind::Product, ADMISSION)]), 1);
        assert_eq!(errors("lifeboat-engine", &[(Kind::Product, KERNEL)]), 1);
        assert_eq!(errors(KERNEL, &[(Kind::Product, MODEL)]), 1);
        assert_eq!(errors(BLOCK, &[(Kind::Product, "lifeboat-qemu")]), 1);
        assert_eq!(errors(BLOCK, &[(Kind::Product, KERNEL)]), 1);
        assert_eq!(errors("lifeboat-engine", &[(Kind::Product, BLOCK)]), 1);
        assert_eq!(errors("lifeboat-link", &[(Kind::Product, BLOCK)]), 1);
        assert_eq!(errors("lifeboat", &[(Kind::Product, BENCH)]), 1);
        assert_eq!(errors("lifeboat-novel", &[]), 1);
    }
}
