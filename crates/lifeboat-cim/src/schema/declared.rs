//! What properties and parameters have in common: a name and a declared type. Whether a value fits it, [`crate::typing`] says.

use super::{Parameter, Property};
use crate::value::CimType;

/// Something with a declared type.
pub trait Declared {
    /// "parameter" or "property".
    const WHAT: &'static str;
    /// Its name.
    fn name(&self) -> &str;
    /// Its type.
    fn kind(&self) -> CimType;
    /// Whether it is an array.
    fn array(&self) -> bool;
    /// Class that a reference leads to.
    fn reference_class(&self) -> Option<&str>;
    /// Class of an embedded instance; empty for any.
    fn embedded(&self) -> Option<&str>;
}

macro_rules! declared {
    ($kind:ty, $what:literal) => {
        impl Declared for $kind {
            const WHAT: &'static str = $what;
            fn name(&self) -> &str {
                &self.name
            }
            fn kind(&self) -> CimType {
                self.kind
            }
            fn array(&self) -> bool {
                self.array
            }
            fn reference_class(&self) -> Option<&str> {
                self.reference_class.as_deref()
            }
            fn embedded(&self) -> Option<&str> {
                self.embedded.as_deref()
            }
        }
    };
}

declared!(Property, "property");
declared!(Parameter, "parameter");
