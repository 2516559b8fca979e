//! Differences between Postgres' major versions that more than one module meets.

use pgrx::pg_sys;

/// Name of a relation's files: tablespace, database, number.
#[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
pub type Locator = pg_sys::RelFileNode;
/// Name of a relation's files: tablespace, database, number.
#[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
pub type Locator = pg_sys::RelFileLocator;

/// Database, tablespace and number of a locator.
pub fn locator_parts(locator: &Locator) -> (u32, u32, u32) {
    #[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
    return (locator.dbNode.to_u32(), locator.spcNode.to_u32(), locator.relNode.to_u32());
    #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
    (locator.dbOid.to_u32(), locator.spcOid.to_u32(), locator.relNumber.to_u32())
}

/// The locator of an open relation.
///
/// # Safety
/// `relation` is open.
pub unsafe fn locator(relation: pg_sys::Relation) -> Locator {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
        return (*relation).rd_node;
        #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
        (*relation).rd_locator
    }
}

/// A storage manager's handle of a permanent relation.
///
/// # Safety
/// Called in a transaction.
pub unsafe fn open_storage(locator: Locator) -> pg_sys::SMgrRelation {
    // -1: no backend owns it, it is not temporary.
    // SAFETY: any locator may be opened; nothing is read yet.
    unsafe { pg_sys::smgropen(locator, -1) }
}

/// Creates the main fork of a new permanent relation, to be deleted if the transaction rolls back.
///
/// # Safety
/// Called in a transaction, for a locator that is free.
pub unsafe fn create_storage(locator: Locator, persistence: core::ffi::c_char) -> pg_sys::SMgrRelation {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg13", feature = "pg14"))]
        return pg_sys::RelationCreateStorage(locator, persistence);
        #[cfg(not(any(feature = "pg13", feature = "pg14")))]
        pg_sys::RelationCreateStorage(locator, persistence, true)
    }
}

/// Type modifier of the first column of a descriptor that has one.
///
/// # Safety
/// `descriptor` is valid and has a column.
pub unsafe fn first_typmod(descriptor: pg_sys::TupleDesc) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg18")]
        return (*pg_sys::TupleDescAttr(descriptor, 0)).atttypmod;
        #[cfg(not(feature = "pg18"))]
        (*(*descriptor).attrs.as_ptr()).atttypmod
    }
}

/// Waits in the line for a row; false if it would have to wait and may not.
///
/// # Safety
/// An open relation and a valid pointer, in a transaction.
pub unsafe fn lock_tuple_if_free(
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    mode: pg_sys::LOCKMODE,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg18")]
        return pg_sys::ConditionalLockTuple(relation, pointer, mode, false);
        #[cfg(not(feature = "pg18"))]
        pg_sys::ConditionalLockTuple(relation, pointer, mode)
    }
}

/// True if the transaction has ended.
///
/// # Safety
/// In a transaction, about another one.
pub unsafe fn transaction_has_ended(xid: pg_sys::TransactionId) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg18")]
        return pg_sys::ConditionalXactLockTableWait(xid, false);
        #[cfg(not(feature = "pg18"))]
        pg_sys::ConditionalXactLockTableWait(xid)
    }
}

/// Appends a page to the main fork.
///
/// # Safety
/// `page` covers a block; the storage is open.
pub unsafe fn extend_storage(storage: pg_sys::SMgrRelation, block: u32, page: pg_sys::Page) {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::smgrextend(storage, pg_sys::ForkNumber::MAIN_FORKNUM, block, page.cast(), false) }
}

/// Reads a block of the main fork past the shared buffers.
///
/// # Safety
/// `page` covers a block; the block exists.
pub unsafe fn read_storage(storage: pg_sys::SMgrRelation, block: u32, page: pg_sys::Page) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        {
            let mut buffers = [page.cast::<core::ffi::c_void>()];
            pg_sys::smgrreadv(storage, pg_sys::ForkNumber::MAIN_FORKNUM, block, buffers.as_mut_ptr(), 1);
        }
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        pg_sys::smgrread(storage, pg_sys::ForkNumber::MAIN_FORKNUM, block, page.cast());
    }
}

/// Reads a block of a relation that has no open descriptor, through the shared buffers.
///
/// # Safety
/// The block exists.
pub unsafe fn read_buffer(locator: Locator, block: u32) -> pg_sys::Buffer {
    let (fork, mode) = (pg_sys::ForkNumber::MAIN_FORKNUM, pg_sys::ReadBufferMode::RBM_NORMAL);
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg13", feature = "pg14"))]
        return pg_sys::ReadBufferWithoutRelcache(locator, fork, block, mode, std::ptr::null_mut());
        #[cfg(not(any(feature = "pg13", feature = "pg14")))]
        pg_sys::ReadBufferWithoutRelcache(locator, fork, block, mode, std::ptr::null_mut(), true)
    }
}
