//! Row versions: reading them from a view, making Postgres' tuples of them and the other way round.
//!
//! A row's value holds the tuple from `t_infomask2` on; the fields before it (xmin, xmax, command ids, ctid) are made of
//! the row's header, its deletion mark and its number, so that system columns work. Tuples are copied into their slots:
//! nothing that Postgres holds points into a map.

use kriya_engine::keys;
use kriya_engine::row::{Mark, NO_NEXT, RowHeader};
use lsmstore::View;
use pgrx::prelude::*;

use super::tid;
use crate::error::{Failure, OrRaise, raise};
use crate::xid::lower;
use crate::{glue, session};

/// Offset in a tuple's header from which on it is stored.
pub const STORED_FROM: usize = core::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_infomask2);
/// Smallest header: its bitmap begins here.
const SMALLEST: usize = core::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits);

/// A version of a row, as a view holds it.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// Its number.
    pub number: u64,
    /// Who made it.
    pub header: RowHeader,
    /// The tuple from `t_infomask2` on.
    pub tuple: &'a [u8],
    /// Its deletion mark, with the bytes of it.
    pub mark: Option<(Mark, &'a [u8])>,
}

impl<'a> Version<'a> {
    /// Of the values of a row and, where there is one, of its mark.
    pub fn parse(number: u64, row: &'a [u8], mark: Option<&'a [u8]>) -> Version<'a> {
        let (header, tuple) = RowHeader::parse(row).or_raise();
        if tuple.len() < SMALLEST - STORED_FROM {
            raise(Failure::corrupt(format!("row {number} holds a tuple of {} bytes", tuple.len())));
        }
        let mark = mark.map(|bytes| (Mark::parse(bytes).or_raise(), bytes));
        let own = session::incarnation();
        if header.incarnation != own || mark.is_some_and(|(mark, _)| mark.incarnation != own) {
            raise(Failure::unsupported("reading rows of an earlier incarnation of the store is not supported yet"));
        }
        Version { number, header, tuple, mark }
    }

    /// The row of that number in a view.
    pub fn get(view: &'a View, table: u64, number: u64) -> Option<Version<'a>> {
        let sequence = view.read_sequence();
        let row = view.get(&keys::row(table, number), sequence).or_raise()?;
        let mark = view.get(&keys::mark(table, number), sequence).or_raise();
        Some(Version::parse(number, row, mark))
    }

    /// Number of the version that replaced it, if it was updated.
    pub fn next(&self) -> Option<u64> {
        self.mark.map(|(mark, _)| mark.next).filter(|&next| next != NO_NEXT)
    }

    /// Where an item pointer of Postgres' says that the row went: to the next version, to another partition, or nowhere.
    pub fn successor(&self) -> pg_sys::ItemPointerData {
        let moved = self.mark.is_some_and(|(mark, _)| mark.flags & Mark::MOVED != 0);
        if moved { tid::moved() } else { tid::pointer(self.next().unwrap_or(self.number)) }
    }

    /// Stores the version in a slot for heap tuples.
    ///
    /// # Safety
    /// `slot` has the operations `TTSOpsHeapTuple`; `table` is the relation's OID.
    pub unsafe fn store(&self, slot: *mut pg_sys::TupleTableSlot, table: pg_sys::Oid) {
        // SAFETY: the caller's promise; the tuple is palloc'd in the slot's own context and handed over to it.
        unsafe {
            let old = pg_sys::MemoryContextSwitchTo((*slot).tts_mcxt);
            let tuple = self.heap_tuple(table);
            pg_sys::MemoryContextSwitchTo(old);
            pg_sys::ExecStoreHeapTuple(tuple, slot, true);
            (*slot).tts_tid = (*tuple).t_self;
            (*slot).tts_tableOid = table;
        }
    }

    /// A tuple of Postgres, palloc'd in the current context.
    ///
    /// # Safety
    /// Called on the main thread of a backend.
    pub unsafe fn heap_tuple(&self, table: pg_sys::Oid) -> pg_sys::HeapTuple {
        let length = STORED_FROM + self.tuple.len();
        let space = size_of::<pg_sys::HeapTupleData>().next_multiple_of(8);
        // SAFETY: one allocation for the descriptor and the tuple; every byte of the header is written below or copied.
        unsafe {
            let tuple = pg_sys::palloc(space + length).cast::<pg_sys::HeapTupleData>();
            let header = tuple.cast::<u8>().add(space).cast::<pg_sys::HeapTupleHeaderData>();
            header.cast::<u8>().add(STORED_FROM).copy_from_nonoverlapping(self.tuple.as_ptr(), self.tuple.len());
            let hoff = usize::from((*header).t_hoff);
            if hoff < SMALLEST || hoff > length {
                raise(Failure::corrupt(format!("row {} says that its data begins at byte {hoff}", self.number)));
            }
            (*tuple).t_len = length as u32;
            (*tuple).t_data = header;
            stamp(tuple, table, self.number, self.header.xmin, self.header.cmin);
            if let Some((mark, _)) = self.mark {
                (*header).t_choice.t_heap.t_xmax = lower(mark.xmax);
                (*header).t_infomask &= !(pg_sys::HEAP_XMAX_INVALID as u16);
                (*header).t_ctid = self.successor();
            }
            tuple
        }
    }
}

/// Makes a tuple's header that of a new row.
///
/// # Safety
/// `tuple` is writable and whole.
pub unsafe fn stamp(tuple: pg_sys::HeapTuple, table: pg_sys::Oid, number: u64, xid: u64, command: pg_sys::CommandId) {
    // SAFETY: the caller's promise.
    unsafe {
        let header = (*tuple).t_data;
        let choice = &mut (*header).t_choice.t_heap;
        choice.t_xmin = lower(xid);
        choice.t_field3.t_cid = command;
        choice.t_xmax = pg_sys::InvalidTransactionId;
        (*header).t_ctid = tid::pointer(number);
        (*header).t_infomask &= !(pg_sys::HEAP_XACT_MASK as u16);
        (*header).t_infomask |= pg_sys::HEAP_XMAX_INVALID as u16;
        (*tuple).t_self = tid::pointer(number);
        (*tuple).t_tableOid = table;
    }
}

/// The value of a new row made of a slot's content: nothing stored out of line, stamped with xid and command, and with
/// the token of a speculative insertion (else 0).
///
/// # Safety
/// `slot` holds a tuple of `relation`.
pub unsafe fn value_of_slot(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    xid: u64,
    command: pg_sys::CommandId,
    token: u32,
) -> Vec<u8> {
    // SAFETY: the caller's promise; the tuple lives until it is freed below, after its bytes were copied.
    unsafe {
        let mut owned = false;
        let fetched = pg_sys::ExecFetchSlotHeapTuple(slot, true, &mut owned);
        let tuple = glue::kriya_inline_tuple(fetched, (*relation).rd_att);
        let length = (*tuple).t_len as usize;
        let bytes = std::slice::from_raw_parts((*tuple).t_data.cast::<u8>(), length);
        let header = RowHeader { token, incarnation: session::incarnation(), xmin: xid, cmin: command };
        let mut value = Vec::new();
        header.encode_into(&bytes[STORED_FROM..], &mut value).or_raise();
        if tuple != fetched {
            pg_sys::pfree(tuple.cast());
        }
        if owned {
            pg_sys::pfree(fetched.cast());
        }
        value
    }
}
