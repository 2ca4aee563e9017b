//! Reading typed values out of a TOML tree, collecting what is wrong instead of stopping at it.
//!
//! A value of the wrong type leaves its default behind and a problem at its path. Later checks may
//! then complain about the default at the same path; only the first problem of a path is kept
//! ([`first_of_each_path`]), so that they are not heard.

use core::ops::RangeInclusive;
use std::collections::{HashMap, HashSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;

/// How many characters of a text from the file a message quotes.
const QUOTE: usize = 64;

/// One table of the file, and the keys that were asked of it.
pub(super) struct Section<'a, 'i> {
    path: String,
    table: Option<&'a DeTable<'i>>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a, 'i> Section<'a, 'i> {
    /// The whole file.
    pub(super) fn root(table: &'a DeTable<'i>, problems: &'a mut Vec<Problem>) -> Self {
        Self { path: String::new(), table: Some(table), known: Vec::new(), problems }
    }

    /// The table under `key`; one without entries when it is absent.
    pub(super) fn table(&mut self, key: &'static str) -> Section<'_, 'i> {
        let table = self.typed(key, "a table", DeValue::as_table);
        let path = self.path_of(key);
        Section { path, table, known: Vec::new(), problems: self.problems }
    }

    /// Reads each table of the array under `key`.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 'i>) -> T,
    ) -> Vec<T> {
        let Some(array) = self.typed(key, "an array of tables", DeValue::as_array) else {
            return Vec::new();
        };
        let mut all = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.problems.push(wrong_type(&path, "a table", value.get_ref()));
            }
            let problems = &mut *self.problems;
            let mut section = Section { path, table, known: Vec::new(), problems };
            all.push(read(&mut section));
            section.finish();
        }
        all
    }

    /// Whether there is anything under `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        self.typed(key, "a string", DeValue::as_str).map(str::to_owned)
    }

    /// The string under `key`, which must be there.
    pub(super) fn required(&mut self, key: &'static str) -> String {
        self.must_be_there(key);
        self.string(key).unwrap_or_default()
    }

    /// Says so when the table is there and `key` is not.
    pub(super) fn must_be_there(&mut self, key: &'static str) {
        if self.table.is_some_and(|table| !table.contains_key(key)) {
            self.say(key, "missing");
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", DeValue::as_bool)
    }

    /// The integer under `key`, if it is within `range`, which `u32` must hold.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.typed(key, "an integer", DeValue::as_integer)?;
        let within = u32::from_str_radix(value.as_str(), value.radix()).ok();
        let within = within.filter(|number| range.contains(number));
        if within.is_none() {
            let shown = shorten(&value.to_string());
            let (low, high) = range.into_inner();
            self.say(key, format!("{shown} is out of range ({low} to {high})"));
        }
        within
    }

    /// The strings of the array under `key`; an empty one for each that is none.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<String> {
        let Some(array) = self.typed(key, "an array of strings", DeValue::as_array) else {
            return Vec::new();
        };
        let mut all = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            if !value.get_ref().is_str() {
                let path = format!("{}[{index}]", self.path_of(key));
                self.problems.push(wrong_type(&path, "a string", value.get_ref()));
            }
            all.push(value.get_ref().as_str().unwrap_or_default().to_owned());
        }
        all
    }

    /// The value under `key`, of any type.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a DeValue<'i>> {
        self.known.push(key);
        self.table?.get(key).map(Spanned::get_ref)
    }

    pub(super) fn say(&mut self, key: &str, message: impl Into<String>) {
        let path = self.path_of(key);
        self.problems.push(Problem::new(path, message));
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for key in table.keys().map(|key| key.get_ref().as_ref()) {
            if !self.known.contains(&key) {
                let near = self.known.iter().find(|known| is_near(known, key));
                let hint = near.map(|near| format!(" (did you mean \"{near}\"?)"));
                let message = format!("unknown key{}", hint.unwrap_or_default());
                self.problems.push(Problem::new(join(&self.path, key), message));
            }
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        take: impl FnOnce(&'a DeValue<'i>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let taken = take(value);
        if taken.is_none() {
            self.problems.push(wrong_type(&self.path_of(key), wanted, value));
        }
        taken
    }

    fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

pub(super) fn wrong_type(path: &str, wanted: &str, value: &DeValue<'_>) -> Problem {
    let found = match value {
        DeValue::String(text) => format!("\"{}\"", shorten(text)),
        DeValue::Integer(number) => shorten(&number.to_string()),
        DeValue::Float(number) => shorten(&number.to_string()),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    Problem::new(path, format!("expected {wanted}, found {found}"))
}

/// The text as a message quotes it: on one line, and not longer than a line.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTE).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTE).is_some() {
        short.push('…');
    }
    short
}

/// `path.key`, the key quoted unless it is a bare one.
fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let key = match !key.is_empty() && key.chars().all(bare) && key.len() <= QUOTE {
        true => key.to_owned(),
        false => format!("\"{}\"", shorten(key)),
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Whether one insertion, removal or replacement makes one word of the other.
fn is_near(known: &str, typed: &str) -> bool {
    let (known, typed) = (known.as_bytes(), typed.as_bytes());
    if known.len().abs_diff(typed.len()) > 1 || known.len() < 3 {
        return false;
    }
    let head = known.iter().zip(typed).take_while(|(a, b)| a == b).count();
    let tail = known.iter().rev().zip(typed.iter().rev()).take_while(|(a, b)| a == b).count();
    head + tail + 1 >= known.len().max(typed.len())
}

/// Keeps the first problem of each path, and looks up where the paths are in the file: the value's
/// own place, or that of the innermost table around it.
pub(super) fn first_of_each_path(
    problems: Vec<Problem>,
    text: &str,
    tree: &Spanned<DeTable<'_>>,
) -> Vec<Problem> {
    if problems.is_empty() {
        return problems;
    }
    let mut offsets = HashMap::new();
    collect(tree.get_ref(), "", &mut offsets);
    let lines = Lines::of(text);
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for mut problem in problems {
        if seen.insert(problem.path.clone()) {
            problem.place = enclosing(&problem.path)
                .find_map(|path| offsets.get(path))
                .map(|offset| lines.place(*offset));
            kept.push(problem);
        }
    }
    kept
}

/// The path, then what is around it: `port[2].trunk[1].vlan`, `port[2].trunk[1]`, `port[2].trunk`…
fn enclosing(path: &str) -> impl Iterator<Item = &str> {
    core::iter::successors(Some(path), |path| {
        let end = path.rfind(['.', '['])?;
        path.get(..end)
    })
}

fn collect(table: &DeTable<'_>, path: &str, offsets: &mut HashMap<String, usize>) {
    for (key, value) in table {
        let below = join(path, key.get_ref());
        collect_value(value, &below, offsets);
        // A table is where its header or first key is; anything else is where its key is.
        offsets.insert(below, key.span().start);
    }
}

fn collect_value(value: &Spanned<DeValue<'_>>, path: &str, offsets: &mut HashMap<String, usize>) {
    match value.get_ref() {
        DeValue::Table(table) => collect(table, path, offsets),
        DeValue::Array(array) => {
            for (index, entry) in array.iter().enumerate() {
                let below = format!("{path}[{index}]");
                collect_value(entry, &below, offsets);
                offsets.insert(below, entry.span().start);
            }
        }
        _ => {}
    }
}

/// Where the lines of a text begin.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = core::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub(super) fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).map_or(0, |text| text.chars().count());
        (line.max(1), before + 1)
    }
}
