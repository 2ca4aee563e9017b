//! What pods say to each other, always with its content checked.

pub mod flood;
pub mod frames;
pub mod lasting;
pub mod mirror;
pub mod ping;
pub mod tcp;
pub mod udp;

/// Bytes that look like noise and repeat after a prime number of them, so that a lost, doubled or
/// moved piece of a stream cannot go unnoticed.
#[must_use]
pub fn pattern(seed: u64) -> Vec<u8> {
    const LENGTH: usize = 262_139;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(LENGTH + 8);
    while bytes.len() < LENGTH {
        // xorshift64* (Vigna 2016)
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(LENGTH);
    bytes
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn patterns_differ_by_seed_and_do_not_repeat_inside() {
        let (one, two) = (pattern(1), pattern(2));
        assert_ne!(one, two);
        assert_eq!(one, pattern(1));
        let windows: std::collections::HashSet<&[u8]> = one.windows(16).collect();
        assert_eq!(windows.len(), one.len() - 15);
    }
}
