//! Declarations of `c/glue.c` and of Postgres functions that the bindings leave out. Guarded: an error raised inside
//! comes out as a Rust panic that the calling callback's guard turns back into a Postgres error.

use pgrx::prelude::*;

/// Called for each record with our magic: context, start, end, payload, its length. False stops the reading.
pub type EachRecord =
    unsafe extern "C-unwind" fn(*mut core::ffi::c_void, u64, u64, *const core::ffi::c_char, u32) -> bool;

#[pg_guard]
unsafe extern "C-unwind" {
    pub fn kriya_log_insert(
        header: *const core::ffi::c_char,
        header_length: u32,
        body: *const core::ffi::c_char,
        length: u32,
        unimportant: bool,
        start: *mut u64,
    ) -> u64;
    pub fn kriya_after_error();
    pub fn kriya_log_position() -> u64;
    pub fn kriya_log_timeline() -> u32;
    pub fn kriya_log_read(
        from: u64,
        upto: u64,
        magic: *const core::ffi::c_char,
        magic_length: u32,
        each: EachRecord,
        context: *mut core::ffi::c_void,
    ) -> u64;
    pub fn kriya_slot_keep(position: u64) -> bool;
    pub fn kriya_slot_advance(position: u64);
    pub fn kriya_slot_position(lost: *mut bool) -> u64;
    pub fn kriya_slot_health(position: u64) -> i32;
    pub fn kriya_postmaster_is_alive() -> bool;
    pub fn kriya_commit_lock(exclusive: bool);
    pub fn kriya_inline_tuple(tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> pg_sys::HeapTuple;
    pub fn kriya_rows_begin(call: pg_sys::FunctionCallInfo) -> *mut pg_sys::Tuplestorestate;
    pub fn kriya_rows_add_check(
        call: pg_sys::FunctionCallInfo,
        rows: *mut pg_sys::Tuplestorestate,
        operation: *const core::ffi::c_char,
        ok: bool,
        detail: *const core::ffi::c_char,
    );
    pub fn kriya_key_changes(
        relation: pg_sys::Relation,
        old: pg_sys::HeapTuple,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool;
    pub fn kriya_count(relation: pg_sys::Relation, inserted: i64, updated: bool, deleted: bool);
    pub fn kriya_count_scan(relation: pg_sys::Relation);
    pub fn kriya_count_rows(relation: pg_sys::Relation, rows: i64);
}

/// What was typed for the secret settings.
#[cfg(feature = "s3")]
#[pg_guard]
unsafe extern "C-unwind" {
    pub fn kriya_secret_access_key_id() -> *const core::ffi::c_char;
    pub fn kriya_secret_secret_access_key() -> *const core::ffi::c_char;
    pub fn kriya_secret_session_token() -> *const core::ffi::c_char;
    pub fn kriya_secret_profile() -> *const core::ffi::c_char;
}

/// Functions whose C symbol is needed itself: a routine table or a hook cannot hold the bindings' guarded Rust functions.
pub mod raw {
    use core::ffi::{c_char, c_void};
    use pgrx::pg_sys::*;
    unsafe extern "C-unwind" {
        pub fn kriya_check_secret(value: *mut *mut c_char, extra: *mut *mut c_void, source: GucSource::Type) -> bool;
        pub fn kriya_assign_access_key_id(value: *const c_char, extra: *mut c_void);
        pub fn kriya_assign_secret_access_key(value: *const c_char, extra: *mut c_void);
        pub fn kriya_assign_session_token(value: *const c_char, extra: *mut c_void);
        pub fn kriya_assign_profile(value: *const c_char, extra: *mut c_void);
        pub fn table_block_parallelscan_reinitialize(rel: Relation, pscan: ParallelTableScanDesc);
        pub fn table_block_parallelscan_estimate(rel: Relation) -> Size;
    }
}
