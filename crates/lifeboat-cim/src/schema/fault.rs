//! What may be wrong with a declaration, in words. Where it was found, `build` says.

/// Files may include others, which may include others, so many times.
pub(super) const MAX_INCLUDES: usize = 8;

/// What may be wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An include of a file that is not there.
    #[error("there is no such file")]
    UnknownFile,
    /// Files that include each other.
    #[error("more than {MAX_INCLUDES} files include each other")]
    IncludeDepth,
    /// A declaration before any namespace.
    #[error("a #pragma namespace must come first")]
    NoNamespace,
    /// The same name twice.
    #[error("it is declared twice")]
    Duplicate,
    /// A superclass that is not declared before.
    #[error("the superclass {0} is not declared before it")]
    UnknownSuperclass(String),
    /// A qualifier without a declaration.
    #[error("the qualifier {0} is not declared before it")]
    UnknownQualifier(String),
    /// A qualifier on something that it is not for.
    #[error("the qualifier {0} is not for a {1}")]
    Scope(String, &'static str),
    /// A qualifier twice.
    #[error("the qualifier {0} stands there twice")]
    DoubledQualifier(String),
    /// A qualifier that a subclass may not change.
    #[error("the qualifier {0} cannot be changed in a subclass")]
    FixedQualifier(String),
    /// A word that is no scope or flavor.
    #[error("{0} is no scope or flavor")]
    UnknownWord(String),
    /// A value that the type does not hold.
    #[error("the value does not fit the type {0}")]
    Value(String),
    /// A class that this namespace does not declare.
    #[error("it names the class {0}, which this namespace does not have")]
    UnknownClass(String),
    /// An inherited name without `Override`.
    #[error("it is inherited; to change it, write Override (\"{0}\")")]
    WithoutOverride(String),
    /// `Override` of something that is not inherited, or under another name.
    #[error("there is nothing inherited that it could override")]
    NothingToOverride,
    /// An override of another type or with other parameters.
    #[error("it differs in type or parameters from what it overrides")]
    Mismatch,
    /// An override that leads to a class that does not derive from the one before.
    #[error("{0} does not derive from {1}, which it overrides")]
    Widened(String, String),
    /// A key in a class that inherits others.
    #[error("a subclass cannot add to the keys that it inherits")]
    NewKey,
    /// An array or an embedded instance as a key.
    #[error("it cannot be a key")]
    KeyType,
    /// A reference elsewhere.
    #[error("only associations have references")]
    Reference,
    /// An association or indication that derives from a class that is none.
    #[error("its superclass is of another kind (association, indication or neither)")]
    OtherKind,
}
