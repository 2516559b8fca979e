//! New entries of lsm_hnsw indexes.
//!
//! They wait in a buffer until something of ours reads, the statement or subtransaction ends, or there are enough of
//! them. A vector that lies in a row of an lsm_s3 table is not sent or logged again: its entry says where in the row.

use std::cell::RefCell;

use kriya_engine::{IndexWritten, NewEntry, VectorRef};
use pgrx::prelude::*;

use super::{Naming, is_indexable, metric};
use crate::error::{Failure, raise};
use crate::session::{self, Composed};
use crate::table::version::{STORED_FROM, Version};
use crate::types::vector;
use crate::{identity, xid};

/// Entries of one message, at most.
const MESSAGE_ENTRIES: usize = 256;

enum Vector {
    Here(Vec<f32>),
    InRow { table: u64, offset: u32, dim: u16 },
}

struct Entries {
    index: u64,
    level: i32,
    xid: u64,
    dim: usize,
    list: Vec<(u64, Vector)>,
    bytes: usize,
}

thread_local! {
    static WAITING: RefCell<Option<Entries>> = const { RefCell::new(None) };
}

/// Where a vector lies in the value of its row: offset of its first float, if the row holds these very floats there.
unsafe fn place_in_row(table: pg_sys::Relation, attribute: i16, number: u64, wanted: &[f32]) -> Option<Vector> {
    if attribute <= 0 || wanted.is_empty() {
        return None;
    }
    // SAFETY: an open lsm_s3 table; the copied tuple lives until it is freed below.
    unsafe {
        let id = identity::of(table).id;
        let view = session::view_undrained();
        let version = Version::get(&view, id, number)?;
        let tuple = version.heap_tuple((*table).rd_id);
        if attribute as u16 > (*(*tuple).t_data).t_infomask2 & pg_sys::HEAP_NATTS_MASK as u16 {
            // The row is older than the column; its value is in the catalogue.
            pg_sys::pfree(tuple.cast());
            return None;
        }
        let mut null = false;
        let datum = pg_sys::heap_getattr(tuple, attribute.into(), (*table).rd_att, &mut null);
        let mut found = None;
        if !null {
            let held = datum.cast_mut_ptr::<pg_sys::varlena>();
            let compressed = pgrx::varlena::varatt_is_4b_c(held) || pgrx::varlena::varatt_is_1b_e(held);
            let data = pgrx::varlena::vardata_any(held).cast::<u8>();
            let length = if compressed { 0 } else { pgrx::varlena::varsize_any_exhdr(held) };
            // Dimensions and an unused field come before the floats.
            if length == 4 + 4 * wanted.len() {
                let floats = std::slice::from_raw_parts(data.add(4), 4 * wanted.len());
                let same = floats.chunks_exact(4).zip(wanted).all(|(a, b)| a == b.to_ne_bytes());
                let in_tuple = data.add(4).offset_from((*tuple).t_data.cast::<u8>()) as usize;
                let offset = kriya_engine::row::ROW_HEADER + in_tuple - STORED_FROM;
                found = same.then_some(Vector::InRow { table: id, offset: offset as u32, dim: wanted.len() as u16 });
            }
        }
        pg_sys::pfree(tuple.cast());
        found
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn insert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    pointer: pg_sys::ItemPointer,
    table: pg_sys::Relation,
    _unique: pg_sys::IndexUniqueCheck::Type,
    #[cfg(not(feature = "pg13"))] _unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: Postgres' arguments for an index with one column.
    unsafe {
        if *nulls {
            return false;
        }
        let value = vector::detoast(*values);
        let floats = value.as_slice();
        let (metric, _) = metric(index);
        if !is_indexable(metric, floats) {
            return false;
        }
        let naming = Naming::of(table);
        let tid = naming.name(*pointer);
        let place = match naming {
            Naming::Numbers => place_in_row(table, (*info).ii_IndexAttrNumbers[0], tid, floats),
            Naming::Pointers => None,
        };
        let vector = place.unwrap_or_else(|| Vector::Here(floats.to_vec()));
        add(identity::of(index).id, tid, vector, floats.len());
    }
    false
}

/// Raises the error of a vector of other dimensions than the index has, if it has any yet.
fn check_dim(index: u64, dim: usize) {
    let waiting = WAITING
        .with_borrow(|waiting| waiting.as_ref().filter(|entries| entries.index == index).map(|entries| entries.dim));
    let known = waiting.or_else(|| session::with(|session, wait| session.index(index, wait)).dim());
    if let Some(known) = known.filter(|known| *known != dim) {
        raise(other_dim(known, dim));
    }
}

fn other_dim(expected: impl std::fmt::Display, got: impl std::fmt::Display) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, format!("expected {expected} dimensions, not {got}"))
}

fn add(index: u64, tid: u64, vector: Vector, dim: usize) {
    check_dim(index, dim);
    // SAFETY: a session's own state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    let xid = xid::current();
    let other = |entries: &Entries| (entries.index, entries.level, entries.xid) != (index, level, xid);
    if WAITING.with_borrow(|waiting| waiting.as_ref().is_some_and(other)) {
        drain();
    }
    // While this xid is the current one: see `buffer_row`.
    session::announce_current(xid);
    let full = WAITING.with_borrow_mut(|waiting| {
        let entries = waiting.get_or_insert_with(|| Entries { index, level, xid, dim, list: Vec::new(), bytes: 0 });
        entries.bytes += match &vector {
            Vector::Here(floats) => 4 * floats.len(),
            Vector::InRow { dim, .. } => 4 * usize::from(*dim),
        };
        entries.list.push((tid, vector));
        entries.list.len() >= MESSAGE_ENTRIES || entries.bytes >= session::MESSAGE_BYTES
    });
    if full || session::is_committing() {
        drain();
    }
}

/// Puts the entries back if the sending of them is cut short by an error.
struct Restore(Option<Entries>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(entries) = self.0.take() {
            session::doom(entries.level);
            WAITING.set(Some(entries));
        }
    }
}

/// Sends the entries that wait.
pub fn drain() {
    let mut sending = Restore(WAITING.take());
    let Some(entries) = &sending.0 else { return };
    let list: Vec<NewEntry<'_>> = entries
        .list
        .iter()
        .map(|(tid, vector)| NewEntry {
            tid: *tid,
            vector: match vector {
                Vector::Here(floats) => VectorRef::Inline(floats),
                Vector::InRow { table, offset, dim } => VectorRef::InRow { table: *table, offset: *offset, dim: *dim },
            },
        })
        .collect();
    let refused = session::write_composed(entries.xid, |session, generation, wait| {
        Ok(match session.index_insert(generation, entries.index, &list, wait)? {
            IndexWritten::At { batch, first, .. } => Composed::Written(batch, first, None),
            IndexWritten::Busy => Composed::Busy,
            IndexWritten::Dimension { expected, got } => Composed::Nothing(Some((expected, got))),
        })
    });
    drop(list);
    match refused {
        None => sending.0 = None,
        Some((expected, got)) => raise(other_dim(expected, got)),
    }
}

/// At the rollback of a subtransaction (or of everything, level 0): its entries never were.
pub fn forget_level(level: i32) {
    WAITING.with_borrow_mut(|waiting| {
        if waiting.as_ref().is_some_and(|entries| entries.level >= level) {
            *waiting = None;
        }
    });
}
