use encap::checksum::{self, Sum};
use proptest::prelude::*;

use crate::common::naive_sum;

/// One's complement has two zeros.
fn same(a: u16, b: u16) -> bool {
    a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
}

proptest! {
    #[test]
    fn any_bytes_in_any_slices(
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
    ) {
        let naive = naive_sum(&bytes);
        prop_assert!(same(!naive, checksum::of(&bytes)));
        let mut sum = Sum::new();
        for slice in crate::common::cut(&bytes, &cuts) {
            sum.add(&slice);
        }
        prop_assert!(same(naive, sum.folded()));
    }

    #[test]
    fn words_are_bytes(words in proptest::collection::vec(any::<u16>(), 0..40), last: u32) {
        let mut sum = Sum::new();
        let mut bytes = Vec::new();
        for &word in &words {
            sum.add_u16(word);
            bytes.extend(word.to_be_bytes());
        }
        sum.add_u32(last);
        bytes.extend(last.to_be_bytes());
        prop_assert!(same(sum.folded(), naive_sum(&bytes)));
    }

    #[test]
    fn an_update_is_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 2..60), at: usize, new: u16) {
        bytes.truncate(bytes.len() & !1);
        // All zeros have the one sum that RFC 1624 cannot tell from the other zero.
        prop_assume!(bytes.iter().any(|&byte| byte != 0));
        let at = at % (bytes.len() / 2) * 2;
        let before = !naive_sum(&bytes);
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        prop_assert!(same(checksum::update(before, old, new), !naive_sum(&bytes)));
    }
}

#[test]
fn rfc_1071_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum::of(&bytes), !0xddf2);
}

#[test]
fn rfc_1624_example() {
    assert_eq!(checksum::update(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn the_largest_sums_do_not_overflow() {
    for len in [64 * 1024, 64 * 1024 + 1, 4 << 20] {
        let bytes = vec![0xff; len];
        assert!(same(naive_sum(&bytes), !checksum::of(&bytes)));
    }
}
