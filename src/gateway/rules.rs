//! Who puts rules into the kernel.

use serde::{Deserialize, Serialize};

/// The table that is Tapestry's, of the family `inet`.
pub const TABLE: &str = "tapestry";

/// What becomes of the elements of a set or map of the table. They are written as nft(8) lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChange {
    /// Its name.
    pub set: String,
    /// What is in it, and is no longer.
    pub gone: Vec<String>,
    /// What is not in it, and is from now on.
    pub new: Vec<String>,
}

/// The one table of rules, in the hands of whoever may change it. Each call is one run of nft(8), in
/// the caller's thread, and ends within seconds.
pub trait Rules: Send {
    /// Replaces the table by one with this between its braces, in one transaction, and returns it as
    /// the kernel then has it.
    ///
    /// # Errors
    ///
    /// In words for an operator; the table is then what it was.
    fn replace(&mut self, body: &str) -> Result<String, String>;

    /// Changes what is in the table's sets, in one transaction.
    ///
    /// # Errors
    ///
    /// In words for an operator; the table is then what it was. That there is not what should go, or
    /// that there is no such set, is one.
    fn amend(&mut self, changes: &[SetChange]) -> Result<(), String>;

    /// The table as the kernel has it; `None`: there is none.
    ///
    /// # Errors
    ///
    /// In words for an operator.
    fn read(&mut self) -> Result<Option<String>, String>;
}
