//! Where a worker looks before it asks epoll about everything: frames mostly come from where the last
//! ones came from, and to ask first costs as much as to try.

use arrayvec::ArrayVec;

use crate::io::readiness::Token;

/// Descriptors that are looked at: as many as a conversation between two stations has.
const BUSY: usize = 2;

/// Looks at these alone between two questions to epoll, which finds all others.
const GLANCES: u32 = 8;

/// The descriptors that had frames last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The latest last.
    tokens: ArrayVec<Token, BUSY>,
    /// Glances until epoll is asked.
    left: u32,
}

impl Recent {
    /// Whether the next look is to be at these alone. After one that finds something epoll is asked
    /// as well, so that they cannot starve others.
    #[inline]
    pub(super) fn glance(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) if !self.tokens.is_empty() => {
                self.left = left;
                true
            }
            _ => false,
        }
    }

    /// Epoll had nothing.
    #[inline]
    pub(super) const fn silent(&mut self) {
        self.left = GLANCES;
    }

    /// Frames came: epoll is asked next.
    #[inline]
    pub(super) const fn found(&mut self) {
        self.left = 0;
    }

    /// Frames came from this descriptor, says epoll.
    #[inline]
    pub(super) fn heard(&mut self, token: Token) {
        self.found();
        if self.tokens.last() == Some(&token) {
            return;
        }
        self.tokens.retain(|known| *known != token);
        if self.tokens.is_full() {
            self.tokens.remove(0);
        }
        self.tokens.push(token);
    }

    /// Where to look.
    #[inline]
    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> + use<> {
        self.tokens.clone().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(tokens: &[u64]) -> Recent {
        let mut recent = Recent::default();
        tokens.iter().for_each(|token| recent.heard(Token(*token)));
        recent
    }

    #[test]
    fn it_knows_the_two_latest() {
        let tokens = |recent: Recent| recent.tokens().map(|token| token.0).collect::<Vec<_>>();
        assert_eq!(tokens(heard(&[1, 2, 2, 1])), [2, 1]);
        assert_eq!(tokens(heard(&[1, 2, 1, 3])), [1, 3]);
    }

    #[test]
    fn epoll_is_asked_first_after_anything_was_found_and_from_time_to_time() {
        let mut recent = heard(&[1]);
        assert!(!recent.glance(), "frames were found");
        recent.silent();
        let glances = (0..100).take_while(|_| recent.glance()).count();
        assert_eq!(glances, GLANCES as usize);
        recent.silent();
        assert!(recent.glance());
        recent.found();
        assert!(!recent.glance(), "frames were found at a glance");
    }

    #[test]
    fn without_anybody_to_look_at_it_is_always_epoll() {
        let mut recent = Recent::default();
        recent.silent();
        assert!(!recent.glance());
    }
}
