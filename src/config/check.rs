//! From what was typed to what it means.
use super::{Config, Problem};
pub(super) fn check(raw: super::raw::Raw, _problems: &mut Vec<Problem>) -> Option<Config> {
    Some(raw)
}
