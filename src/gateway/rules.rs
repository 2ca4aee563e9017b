//! Who puts rules into the kernel.

/// The table that is Tapestry's, of the family `inet`.
pub const TABLE: &str = "tapestry";

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

    /// The table as the kernel has it; `None`: there is none.
    ///
    /// # Errors
    ///
    /// In words for an operator.
    fn read(&mut self) -> Result<Option<String>, String>;
}
