//! Rows of tables without indexes, which wait until they are worth a message.

use lsmstore::Batch;
use pgrx::prelude::*;

use super::{BACKEND, Backend, MESSAGE_BYTES, MESSAGE_ROWS, announce, write_now};

/// Rows that were not sent yet: all of one table, one (sub)transaction.
pub(super) struct Rows {
    table: u64,
    pub level: i32,
    xid: u64,
    batch: Batch,
    count: usize,
}

/// Keeps a row of a table without indexes until it is worth a message.
pub fn buffer_row(table: u64, xid: u64, key: &[u8], value: &[u8]) {
    // SAFETY: a session's own state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    let full = BACKEND.with_borrow_mut(|backend| {
        let transaction = &mut backend.transaction;
        let fits = |rows: &Rows| (rows.table, rows.level, rows.xid) == (table, level, xid);
        if transaction.rows.as_ref().is_some_and(|rows| !fits(rows)) {
            return None;
        }
        let committing = transaction.committing;
        if transaction.rows.is_none() {
            // Now, while this xid is the current one: the record's own header must carry it, so that no recovery gives
            // it out again.
            announce(backend, xid);
        }
        let transaction = &mut backend.transaction;
        let rows = transaction.rows.get_or_insert_with(|| Rows { table, level, xid, batch: Batch::new(), count: 0 });
        rows.batch.put(key, value);
        rows.count += 1;
        Some(committing || rows.count >= MESSAGE_ROWS || rows.batch.encoded_len() >= MESSAGE_BYTES)
    });
    match full {
        None => {
            drain_rows();
            buffer_row(table, xid, key, value);
        }
        Some(true) => drain_rows(),
        Some(false) => {}
    }
}

/// Puts a buffer back where the sending of it was cut short by an error.
struct Restore<'a> {
    backend: &'a mut Backend,
    rows: Option<Rows>,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if let Some(rows) = self.rows.take() {
            let doomed = &mut self.backend.transaction.doomed;
            // SAFETY: a session's own state.
            if rows.level < unsafe { pg_sys::GetCurrentTransactionNestLevel() } {
                *doomed = Some(doomed.map_or(rows.level, |other| other.min(rows.level)));
            }
            self.backend.transaction.rows = Some(rows);
        }
    }
}

fn drain_rows() {
    BACKEND.with_borrow_mut(|backend| {
        let Some(rows) = backend.transaction.rows.take() else { return };
        let mut sending = Restore { backend, rows: None };
        let (xid, batch) = (rows.xid, rows.batch.clone());
        sending.rows = Some(rows);
        write_now(sending.backend, xid, &batch, &[]);
        sending.rows = None;
    });
}

/// Sends everything that waits in a buffer.
pub fn drain() {
    drain_rows();
    crate::index::entries::drain();
}
