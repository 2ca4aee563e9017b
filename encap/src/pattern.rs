//! What the next frame of a run looks like, so that one comparison tells it.

use core::ops::Range;

/// The longest headers that are compared: two tags, IPv6, and TCP with all its options are 122
/// bytes.
const WORDS: usize = 16;

/// The headers of a frame, some bits of which are free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    /// The headers, zero where they are free.
    wanted: [u64; WORDS],
    /// Ones where they are not.
    mask: [u64; WORDS],
    /// Words that they take, the last one filled up with free bytes.
    used: usize,
}

impl Pattern {
    /// These headers, but for the bytes of the ranges and, of one byte, the bits that are not set
    /// in its mask. `None` when they are too long.
    pub(crate) fn new(
        headers: &[u8],
        free: &[Range<usize>],
        masked: Option<(usize, u8)>,
    ) -> Option<Self> {
        let (mut wanted, mut mask) = ([0; WORDS * 8], [0; WORDS * 8]);
        mask.get_mut(..headers.len())?.fill(0xff);
        for range in free {
            mask.get_mut(range.clone())?.fill(0);
        }
        if let Some((at, bits)) = masked {
            *mask.get_mut(at)? = bits;
        }
        for ((wanted, header), mask) in wanted.iter_mut().zip(headers).zip(&mask) {
            *wanted = header & mask;
        }
        Some(Self { wanted: words(&wanted), mask: words(&mask), used: headers.len().div_ceil(8) })
    }

    /// Whether a frame begins with these headers. A frame that ends within their last word is taken
    /// for another one.
    #[inline]
    pub(crate) fn matches(&self, frame: &[u8]) -> bool {
        let Some(head) = frame.get(..self.used * 8) else { return false };
        let (words, _) = head.as_chunks::<8>();
        let wanted = self.wanted.iter().zip(&self.mask);
        // Compared to the end: that they are the same is the rule.
        let differ = words.iter().zip(wanted).fold(0, |differ, (word, (wanted, mask))| {
            differ | (u64::from_ne_bytes(*word) & mask ^ wanted)
        });
        differ == 0
    }
}

fn words(bytes: &[u8; WORDS * 8]) -> [u64; WORDS] {
    let (words, _) = bytes.as_chunks::<8>();
    let mut all = [0; WORDS];
    for (all, word) in all.iter_mut().zip(words) {
        *all = u64::from_ne_bytes(*word);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_that_is_not_free_counts() {
        let headers: Vec<u8> = (1..=67).collect();
        let pattern = Pattern::new(&headers, &[3..5, 60..66], Some((20, 0xf6))).unwrap();
        let mut frame = [&headers[..], &[9; 5]].concat();
        assert!(pattern.matches(&frame));
        for at in 0..frame.len() {
            for bit in 0..8 {
                frame[at] ^= 1 << bit;
                let masked = at == 20 && 0xf6 & (1 << bit) == 0;
                let free = (3..5).contains(&at) || (60..66).contains(&at) || at >= 67 || masked;
                assert_eq!(pattern.matches(&frame), free, "bit {bit} of byte {at}");
                frame[at] ^= 1 << bit;
            }
        }
        assert!(!pattern.matches(&frame[..71]), "it ends within the last word");
    }

    #[test]
    fn headers_that_are_too_long_have_none() {
        assert!(Pattern::new(&[0; 128], &[], None).is_some());
        assert!(Pattern::new(&[0; 129], &[], None).is_none());
    }
}
