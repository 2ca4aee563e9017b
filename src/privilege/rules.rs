//! The one table of nftables rules: `inet tapestry`, replaced as a whole by nft(8), or changed in what
//! its sets hold.
//!
//! What is given is only ever the inside of the table. So that it cannot leave it, or read a file,
//! it is held to a part of nft's language in which no brace is anything but a brace.

use std::fmt::Write as _;

use crate::gateway::rules::{SetChange, TABLE};
use crate::io::program;

/// Why the rules are not what they were to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nftables: {0}")]
pub struct RulesError(pub(super) String);

impl RulesError {
    /// Whether it is that this system has no nft(8), wherever that was found out.
    #[must_use]
    pub fn is_without_nft(&self) -> bool {
        self.0.ends_with(program::NOT_INSTALLED)
    }
}

/// Whether a text can only be the inside of one table: its braces are closed and none leaves it,
/// nothing is hidden in comments, escapes or strings over several lines, and no other file is read.
pub(super) fn admit(body: &str) -> Result<(), String> {
    let mut depth = 0_u32;
    for (number, line) in (1..).zip(body.split('\n')) {
        let refuse = |what: &str| Err(format!("rules, line {number}: {what}"));
        if line.chars().any(|c| !matches!(c, ' '..='~' | '\t')) {
            return refuse("a character other than printable ASCII");
        }
        // What is outside of strings is every other part.
        let parts: Vec<&str> = line.split('"').collect();
        if parts.len().is_multiple_of(2) {
            return refuse("a string does not end on its line");
        }
        for text in parts.iter().step_by(2) {
            if text.contains(['#', '\\', '$']) {
                return refuse("a comment, an escape or a variable");
            }
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if words.any(|word| matches!(word, "include" | "define" | "redefine" | "undefine")) {
                return refuse("a directive that is none of a table");
            }
            for brace in text.chars() {
                depth = match brace {
                    '{' => depth + 1,
                    '}' => match depth.checked_sub(1) {
                        Some(depth) => depth,
                        None => return refuse("a brace that closes the table"),
                    },
                    _ => depth,
                };
            }
        }
    }
    if depth == 0 { Ok(()) } else { Err("rules: a brace is not closed".to_owned()) }
}

/// Replaces the table, in one transaction, and returns it as it then stands.
pub(super) fn replace(body: &str) -> Result<String, RulesError> {
    admit(body).map_err(RulesError)?;
    run(&["-f", "-"], &format!("{}table inet {TABLE} {{\n{body}\n}}\n", gone()))?;
    read().map(Option::unwrap_or_default)
}

/// Whether these can only be changes of the table's sets: there is nothing in names and elements that
/// could end them.
pub(super) fn admit_changes(changes: &[SetChange]) -> Result<(), String> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | ' ');
    for SetChange { set, gone, new } in changes {
        if set.is_empty() || !set.chars().all(name) {
            return Err("rules: a set without a name that one can have".to_owned());
        }
        if gone.iter().chain(new).any(|element| element.is_empty() || !element.chars().all(part)) {
            return Err(format!("rules: set {set}: an element that is none"));
        }
    }
    Ok(())
}

/// Changes what is in the table's sets, in one transaction.
pub(super) fn amend(changes: &[SetChange]) -> Result<(), RulesError> {
    admit_changes(changes).map_err(RulesError)?;
    let mut text = String::new();
    for SetChange { set, gone, new } in changes {
        // What goes makes room for what comes: two networks may overlap.
        for (verb, elements) in [("delete", gone), ("add", new)] {
            if !elements.is_empty() {
                let all = elements.join(", ");
                // Writing to a string does not fail.
                let _ = writeln!(text, "{verb} element inet {TABLE} {set} {{ {all} }}");
            }
        }
    }
    run(&["-f", "-"], &text).map(drop)
}

/// The table as it stands, without counters; `None`: there is none.
pub(super) fn read() -> Result<Option<String>, RulesError> {
    match run(&["--stateless", "list", "table", "inet", TABLE], "") {
        Err(RulesError(words)) if words.contains("No such file or directory") => Ok(None),
        listed => listed.map(Some),
    }
}

/// Removes the table.
pub(super) fn remove() -> Result<(), RulesError> {
    run(&["-f", "-"], &gone()).map(drop)
}

/// To delete what is not there is an error, so that it is added before.
fn gone() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn run(arguments: &[&str], input: &str) -> Result<String, RulesError> {
    program::run("nft", arguments, input).map_err(RulesError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_of_a_table_is_admitted() {
        for body in [
            "",
            "chain a {\n\ttype filter hook input priority 0; policy accept;\n}\n",
            "set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.1 } }",
            "chain a { iifname \"eth0\" ip daddr @s log prefix \"} # not the end $\" accept; }",
            "chain include_me { ct status dnat masquerade fully-random }",
        ] {
            assert_eq!(admit(body), Ok(()), "{body}");
        }
    }

    #[test]
    fn changes_are_of_sets_and_nothing_else() {
        let change = |set: &str, element: &str| {
            let (gone, new) = (Vec::new(), vec![element.to_owned()]);
            let one = SetChange { set: set.to_owned(), gone, new };
            let other = SetChange { gone: one.new.clone(), new: Vec::new(), ..one.clone() };
            let admitted = [admit_changes(&[one]).is_ok(), admit_changes(&[other]).is_ok()];
            assert_eq!(admitted[0], admitted[1], "{set} {element}");
            admitted[0]
        };
        for element in ["10.0.0.0/8", "fd00::1", "tcp . 8080 : 10.0.0.2 . 80", "1.2.3.4-1.2.3.9"] {
            assert!(change("nodes4", element), "{element}");
        }
        for element in ["", "1 }", "1, 2", "1; flush ruleset", "1\n", "@other", "$x", "\"a\"", "#"]
        {
            assert!(!change("nodes4", element), "{element}");
        }
        for set in ["", "a b", "a {", "a;", "a\n"] {
            assert!(!change(set, "10.0.0.1"), "{set}");
        }
    }

    #[test]
    fn what_leaves_the_table_or_hides_is_refused() {
        for body in [
            "}",
            "} table inet other { chain a { }",
            "chain a { } } flush ruleset {",
            "chain a {",
            "include \"/etc/shadow\"",
            "chain a { }; include \"/etc/shadow\"",
            "define x = 1",
            "chain a { ip daddr $x }",
            "# {\n}",
            "chain a { \\\n}",
            "chain a { comment \"{\n\" }",
            "chain a { log prefix \"a }",
            "chain \u{e4} { }",
            "chain a\r{ }",
            "chain a\0{ }",
        ] {
            assert!(admit(body).is_err(), "{body}");
        }
        assert_eq!(
            admit("chain a {\n}\n}").unwrap_err(),
            "rules, line 3: a brace that closes the table"
        );
    }
}
