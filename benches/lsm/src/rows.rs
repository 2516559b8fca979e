//! Keys and values: the n-th of each, without keeping any.

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

/// A key.
pub type Key = [u8; KEY_BYTES];

/// A key and its value.
pub struct Row {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Vec<u8>,
}

/// Rows that come in random order, none twice.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// How many there are.
    pub count: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// A bijection of 64 bits (splitmix64).
fn mix(n: u64) -> u64 {
    let mut mixed = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Rows {
    /// The n-th key to be written.
    pub fn key(&self, n: u64) -> Key {
        key(2 * n)
    }

    /// The n-th key that is never written.
    pub fn absent(&self, n: u64) -> Key {
        key(2 * n + 1)
    }

    /// The n-th row.
    pub fn row(&self, n: u64) -> Row {
        let mut value = vec![0; self.value_bytes];
        let noise = self.value_bytes.div_ceil(2);
        for (chunk, at) in value[..noise].chunks_mut(8).zip(0_u64..) {
            let bytes = mix(n.wrapping_mul(0x1_0001).wrapping_add(at << 40)).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Row { key: self.key(n), value }
    }

    /// The n-th number that is drawn of those of the rows.
    pub fn draw(&self, n: u64) -> u64 {
        ((u128::from(mix(n ^ 0x5bd1_e995)) * u128::from(self.count)) >> 64) as u64
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.count * (KEY_BYTES + self.value_bytes) as u64
    }
}

fn key(n: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&mix(n).to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_comes_twice_and_absent_ones_are_never_written() {
        let rows = Rows { count: 1_000, value_bytes: 100 };
        let mut all: Vec<Key> = (0..rows.count).flat_map(|n| [rows.key(n), rows.absent(n)]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2_000);
    }

    #[test]
    fn half_of_a_value_is_zeros_and_draws_are_in_range() {
        let rows = Rows { count: 7, value_bytes: 100 };
        assert!(rows.row(3).value[50..].iter().all(|byte| *byte == 0));
        assert_ne!(rows.row(3).value, rows.row(4).value);
        assert!((0..1_000).all(|n| rows.draw(n) < 7));
    }
}
