//! `lsm_s3_status()`, `lsm_s3_flush()`, `lsm_s3_check()` and `lsm_s3_takeover()`.

use std::ffi::CString;
use std::fmt::Write;

use kriya_engine::Status;
use pgrx::prelude::*;

use crate::error::{Failure, raise};
use crate::{glue, session, sql_function};

fn describe(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("version", &status.version);
    line("endpoint", &status.endpoint);
    line("place", &status.place);
    if let Some(change) = &status.pending_change {
        line("pending change", &format!("{change} (the settings name it, but tables exist where they are)"));
    }
    line("store", &status.store_id);
    line("incarnation", &status.incarnation);
    line("generation", &status.generation);
    line("epoch", &status.epoch);
    line("manifest", &status.manifest);
    line("sequence", &status.sequence);
    line("memtable bytes", &status.memtable_bytes);
    line("memtables to flush", &status.frozen_memtables);
    line("bytes to upload", &status.pending_bytes);
    line("log", &status.kept_log);
    for (number, level) in status.levels.iter().enumerate().filter(|(_, level)| level.tables > 0) {
        line(&format!("level {number}"), &format!("{} tables, {} bytes", level.tables, level.bytes));
    }
    let excess = status.cache_bytes.saturating_sub(status.cache_budget);
    let told = if excess > 0 { format!(", {excess} too many: what is in use stays") } else { String::new() };
    line("cache", &format!("{} of {} bytes{told}", status.cache_bytes, status.cache_budget));
    line("sessions", &status.sessions);
    for index in &status.indexes {
        let rows: u64 = index.segments.iter().map(|segment| segment.rows).sum();
        line(
            &format!("index {}", index.name),
            &format!(
                "{} dimensions, {} sealed segments with {rows} rows, {} active with {} rows, {} of them pending",
                index.dim,
                index.segments.len(),
                index.actives,
                index.active_rows,
                index.pending_rows
            ),
        );
    }
    if let Some(error) = &status.last_error {
        line("last error", error);
    }
    text.truncate(text.trim_end().len());
    text
}

fn text(value: &str) -> pg_sys::Datum {
    value.into_datum().unwrap_or_else(|| raise(Failure::internal("text without a datum")))
}

/// A text without zero bytes, as C wants it.
fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

sql_function! {
    /// What the storage worker says about itself, a fact a line.
    fn lsm_s3_status(_call) {
        text(&describe(&session::inquire(|session, wait| session.status(wait))))
    }

    /// Takes over a store that does not belong to this server's history.
    fn lsm_s3_takeover(call) {
        // SAFETY: declared with one boolean argument.
        let accept_loss = unsafe { call.datum(0) }.value() != 0;
        text(&session::take_over(accept_loss))
    }

    /// What becomes of each thing that the worker needs of its object store: a row each.
    fn lsm_s3_check(call) {
        let lines = session::check_store();
        // SAFETY: the script declares the function as returning a set of (text, boolean, text); the texts live through
        // the call.
        unsafe {
            let store = glue::kriya_rows_begin(call.raw());
            for line in lines {
                let (operation, detail) = (c_text(&line.operation), c_text(&line.detail));
                glue::kriya_rows_add_check(call.raw(), store, operation.as_ptr(), line.ok, detail.as_ptr());
            }
        }
        pg_sys::Datum::from(0)
    }

    /// Writes everything that is in memory to the object store.
    fn lsm_s3_flush(_call) {
        let report = session::flush();
        text(&format!("everything up to sequence {} is in manifest {}", report.sequence, report.manifest))
    }
}
