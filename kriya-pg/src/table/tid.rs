//! Row numbers and the item pointers that Postgres knows them by.
//!
//! Block = number / 291, offset = number % 291 + 1: more offsets a block would be refused by bitmaps, GIN and the values
//! that Postgres reserves. Numbers count up and are never reused.

use pgrx::itemptr::{
    item_pointer_get_block_number_no_check, item_pointer_get_offset_number_no_check, item_pointer_set_all,
};
use pgrx::pg_sys;

/// Rows of one block.
pub const PER_BLOCK: u64 = 291;
/// One more than the largest number that an item pointer can name.
pub const LIMIT: u64 = 0xFFFF_FFFE * PER_BLOCK;

/// The item pointer of a row.
pub fn pointer(number: u64) -> pg_sys::ItemPointerData {
    let mut pointer = pg_sys::ItemPointerData::default();
    item_pointer_set_all(&mut pointer, (number / PER_BLOCK) as u32, (number % PER_BLOCK) as u16 + 1);
    pointer
}

/// What stands in a row that was moved to another partition.
pub fn moved() -> pg_sys::ItemPointerData {
    let mut pointer = pg_sys::ItemPointerData::default();
    item_pointer_set_all(&mut pointer, pg_sys::InvalidBlockNumber, pg_sys::MovedPartitionsOffsetNumber as u16);
    pointer
}

/// Block and offset of an item pointer, valid or not.
pub fn parts(pointer: pg_sys::ItemPointerData) -> (u64, u64) {
    // SAFETY: plain reads of a value of ours.
    unsafe {
        let block = item_pointer_get_block_number_no_check(pointer);
        (u64::from(block), u64::from(item_pointer_get_offset_number_no_check(pointer)))
    }
}

/// The row that an item pointer names, or `None` where no row can be.
pub fn number(pointer: pg_sys::ItemPointerData) -> Option<u64> {
    let (block, offset) = parts(pointer);
    let number = block * PER_BLOCK + offset.checked_sub(1)?;
    (offset <= PER_BLOCK && number < LIMIT).then_some(number)
}
