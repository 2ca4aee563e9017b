//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use crate::inet::Inet;

/// A running one's-complement sum over bytes that may come in any number of slices of any
/// length: a slice that begins at an odd position is added with its bytes swapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Sum of 16-bit words in memory order, carries not yet folded in.
    words: u64,
    /// Whether an odd number of bytes was added so far.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: 0, odd: false }
    }

    /// Adds the bytes that follow.
    pub fn add(&mut self, bytes: &[u8]) {
        let folded = fold(sum_words(bytes));
        self.words += u64::from(if self.odd { folded.swap_bytes() } else { folded });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds one 16-bit word. Only between whole words: after an even number of bytes.
    pub const fn add_u16(&mut self, word: u16) {
        debug_assert!(!self.odd, "a word at an odd position");
        self.words += word.to_be() as u64;
    }

    /// Adds two 16-bit words, the upper one first.
    pub const fn add_u32(&mut self, word: u32) {
        self.add_u16((word >> 16) as u16);
        self.add_u16(word as u16);
    }

    /// The sum in 16 bits, not complemented: what a checksum field holds before it is completed.
    #[must_use]
    pub const fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the sum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) with an upper layer
    /// of `l4_len` bytes. `head` must be the one `inet` was parsed from.
    #[must_use]
    pub fn pseudo(head: &[u8], inet: &Inet, l4_len: usize) -> Self {
        let mut sum = Self::new();
        sum.add(inet.address_bytes(head));
        sum.add_u16(u16::from(inet.proto));
        sum.add_u32(l4_len as u32);
        sum
    }
}

/// The checksum of one slice. Zero for bytes that contain their own valid checksum.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.checksum()
}

/// The checksum after the word `old` that it covers became `new` (RFC 1624 equation 3).
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = !checksum as u32 + !old as u32 + new as u32;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// UDP's way to write a checksum that came out as zero, which would mean "none" (RFC 768). The
/// two are the same number in one's complement.
#[must_use]
pub const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether two folded sums are the same number: 0 and 0xffff are both zero.
#[must_use]
pub(crate) const fn same(a: u16, b: u16) -> bool {
    nonzero(a) == nonzero(b)
}

const fn fold(words: u64) -> u16 {
    let mut sum = (words & 0xffff_ffff) + (words >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds words of 64 bits into lanes of 128, an addition and its carry each: no slice is long
/// enough to overflow one.
fn sum_words(bytes: &[u8]) -> u64 {
    const LANES: usize = 4;
    let (blocks, rest) = bytes.as_chunks::<{ LANES * 8 }>();
    let mut lanes = [0u128; LANES];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, &word) in lanes.iter_mut().zip(words) {
            *lane += u128::from(u64::from_ne_bytes(word));
        }
    }
    let mut sum: u128 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<8>();
    for &word in words {
        sum += u128::from(u64::from_ne_bytes(word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for &word in words {
        sum += u128::from(u16::from_ne_bytes(word));
    }
    if let &[last] = rest {
        sum += u128::from(u16::from_ne_bytes([last, 0]));
    }
    let low = sum as u64;
    (low & 0xffff_ffff) + (low >> 32) + (sum >> 64) as u64
}
