//! The index in the files of `tests/fixtures`, made of integers so that it is the same for ever. The example `fixtures`
//! makes the files of it, the module `old_files` opens them.

use vecindex::HnswParams;

pub const ROWS: u32 = 120;
pub const DIM: usize = 11;
pub const PARAMS: HnswParams = HnswParams { m: 3, ef_construction: 24, seed: 1 };

/// Row `id`; every tenth equals the one before it.
pub fn row(id: u32) -> Vec<f32> {
    let mut state = if id % 10 == 9 { id - 1 } else { id } + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Multiples of 1/128 up to 1, which every float holds exactly.
        (f64::from((state >> 16) % 257) / 128.0 - 1.0) as f32
    };
    (0..DIM).map(|_| next()).collect()
}

pub fn label(id: u32) -> [u64; 2] {
    [u64::from(id) << 40, !u64::from(id)]
}
