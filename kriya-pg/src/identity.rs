//! Which table or index of the store a relation's file stands for: one WAL-logged page in its main fork.
//!
//! The page travels with the file through crashes, backups and copies of a database, so identity and the file share one
//! recovery. A page of another database (CREATE DATABASE ... TEMPLATE copies files, not the store) or a file without a
//! page is an error, never an empty table.
//!
//! ```text
//! standard page header (24 bytes) | magic u64 | version u32 | kind u32 | id u64 | database u32 | incarnation u32
//! ```

use pgrx::prelude::*;

use crate::compat::{self, Locator};
use crate::error::{Failure, raise};
use crate::{session, settings};

const MAGIC: u64 = 0x3130_4449_4159_4952; // "RIYAID01"
const VERSION: u32 = 1;
const BLOCK: usize = pg_sys::BLCKSZ as usize;

/// What a relation's file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// An lsm_s3 table.
    Table = 1,
    /// An lsm_hnsw index.
    Index = 2,
}

/// Content of the identity page.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Identity {
    magic: u64,
    version: u32,
    kind: u32,
    /// Id in the store.
    pub id: u64,
    database: u32,
    /// Incarnation of the store in which it was created.
    pub incarnation: u32,
}

impl Identity {
    /// Of a new object in the current database.
    pub fn new(kind: Kind, id: u64, incarnation: u32) -> Identity {
        // SAFETY: a plain variable of this process.
        let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
        Identity { magic: MAGIC, version: VERSION, kind: kind as u32, id, database, incarnation }
    }
}

#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

fn page_of(identity: Identity) -> Box<Block> {
    let mut block = Box::new(Block([0; BLOCK]));
    let page: pg_sys::Page = block.0.as_mut_ptr().cast();
    // SAFETY: the block is a whole page, aligned; the identity fits behind its header.
    unsafe {
        pg_sys::PageInit(page, BLOCK, 0);
        let content = page.cast::<u8>().add(header_size());
        content.cast::<Identity>().write_unaligned(identity);
        (*page.cast::<pg_sys::PageHeaderData>()).pd_lower = (header_size() + size_of::<Identity>()) as u16;
    }
    block
}

const fn header_size() -> usize {
    // SizeOfPageHeaderData, rounded up to 8.
    (core::mem::offset_of!(pg_sys::PageHeaderData, pd_linp) + 7) & !7
}

fn parse(page: &[u8]) -> Option<Identity> {
    let content = page.get(header_size()..header_size() + size_of::<Identity>())?;
    // SAFETY: the slice covers an Identity, all of whose bit patterns are valid integers.
    let identity = unsafe { content.as_ptr().cast::<Identity>().read_unaligned() };
    (identity.magic == MAGIC).then_some(identity)
}

/// Writes the identity as first page of a file that has none yet: logged, written and synced.
///
/// # Safety
/// `storage` is the open, empty main fork of `locator`.
pub unsafe fn create(mut locator: Locator, storage: pg_sys::SMgrRelation, identity: Identity) {
    let mut block = page_of(identity);
    let page: pg_sys::Page = block.0.as_mut_ptr().cast();
    // SAFETY: the caller's promise; the page is ours. Synced at once, because a checkpoint may start between the two.
    unsafe {
        pg_sys::log_newpage(&mut locator, pg_sys::ForkNumber::MAIN_FORKNUM, 0, page, true);
        pg_sys::PageSetChecksumInplace(page, 0);
        compat::extend_storage(storage, 0, page);
        pg_sys::smgrimmedsync(storage, pg_sys::ForkNumber::MAIN_FORKNUM);
    }
}

/// Replaces the identity of a relation that has a page.
///
/// # Safety
/// `relation` is open and locked against everybody else.
pub unsafe fn replace(relation: pg_sys::Relation, identity: Identity) {
    let block = page_of(identity);
    // SAFETY: the buffer is locked while its page is replaced, inside of Postgres' generic log record.
    unsafe {
        let buffer = pg_sys::ReadBuffer(relation, 0);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let state = pg_sys::GenericXLogStart(relation);
        let page = pg_sys::GenericXLogRegisterBuffer(state, buffer, pg_sys::GENERIC_XLOG_FULL_IMAGE as i32);
        page.cast::<u8>().copy_from_nonoverlapping(block.0.as_ptr(), BLOCK);
        pg_sys::GenericXLogFinish(state);
        pg_sys::UnlockReleaseBuffer(buffer);
        forget(relation);
    }
}

/// Drops the cached identity of a relation.
///
/// # Safety
/// `relation` is open.
pub unsafe fn forget(relation: pg_sys::Relation) {
    // SAFETY: rd_amcache is ours, palloc'd or null.
    unsafe {
        if !(*relation).rd_amcache.is_null() {
            pg_sys::pfree((*relation).rd_amcache);
            (*relation).rd_amcache = std::ptr::null_mut();
        }
    }
}

unsafe fn page_bytes<'a>(buffer: pg_sys::Buffer) -> &'a [u8] {
    // SAFETY: the caller has the buffer pinned and locked.
    unsafe { std::slice::from_raw_parts(pg_sys::BufferGetPage(buffer).cast::<u8>(), BLOCK) }
}

/// The identity of an open relation; cached in its relcache entry, so that an invalidation forgets it.
///
/// # Safety
/// `relation` is open and of one of our access methods.
pub unsafe fn of(relation: pg_sys::Relation) -> Identity {
    // SAFETY: the caller's promise; the cached value was put there below.
    unsafe {
        if (*relation).rd_amcache.is_null() {
            let identity = read(relation);
            let cache = pg_sys::MemoryContextAlloc(pg_sys::CacheMemoryContext, size_of::<Identity>());
            cache.cast::<Identity>().write(identity);
            (*relation).rd_amcache = cache;
        }
        *(*relation).rd_amcache.cast::<Identity>()
    }
}

unsafe fn read(relation: pg_sys::Relation) -> Identity {
    // SAFETY: the caller's promise; the buffer is locked while its page is looked at.
    let (identity, name, own, kind) = unsafe {
        let name = std::ffi::CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned();
        let storage = compat::open_storage(compat::locator(relation));
        if pg_sys::smgrnblocks(storage, pg_sys::ForkNumber::MAIN_FORKNUM) == 0 {
            raise(Failure::corrupt(format!("file of \"{name}\" does not say what it stands for in the object store")));
        }
        let buffer = pg_sys::ReadBuffer(relation, 0);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let identity = parse(page_bytes(buffer));
        pg_sys::UnlockReleaseBuffer(buffer);
        let index = (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_INDEX;
        (identity, name, pg_sys::MyDatabaseId.to_u32(), if index { Kind::Index } else { Kind::Table })
    };
    let Some(identity) = identity.filter(|identity| identity.kind == kind as u32) else {
        raise(Failure::corrupt(format!("file of \"{name}\" holds something else than its identity")));
    };
    if identity.version != VERSION {
        raise(Failure::corrupt(format!(
            "identity of \"{name}\" has version {}, this library reads version {VERSION}",
            identity.version
        )));
    }
    if identity.database != own {
        raise(
            Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("\"{name}\" was copied from another database; its contents in the object store were not"),
            )
            .hint("Drop it here, or TRUNCATE it, and fill it again."),
        );
    }
    if identity.incarnation != session::incarnation() {
        let (detail, hint) = match settings::text(&settings::ENDPOINT).as_str() {
            "memory" => (
                "They were in memory, which a restart empties, or in another place.",
                "TRUNCATE it, and fill it again.",
            ),
            _ => (
                "They were in memory, or in another folder, bucket or prefix.",
                "Restore the settings lsm_s3.*, or TRUNCATE it.",
            ),
        };
        raise(
            Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("contents of \"{name}\" are not in the store that this server uses now"),
            )
            .detail(detail)
            .hint(hint),
        );
    }
    identity
}

/// The identity of a file, or `None` if it is not one of ours.
///
/// # Safety
/// Called in a transaction; the file may or may not exist.
pub unsafe fn of_file(locator: Locator) -> Option<Identity> {
    // SAFETY: existence and length are checked before the block is read.
    unsafe {
        let storage = compat::open_storage(locator);
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        if !pg_sys::smgrexists(storage, fork) || pg_sys::smgrnblocks(storage, fork) != 1 {
            return None;
        }
        // On disk first: a damaged file of somebody else's must not keep it from being dropped.
        let mut block = Box::new(Block([0; BLOCK]));
        compat::read_storage(storage, 0, block.0.as_mut_ptr().cast());
        parse(&block.0)?;
        let buffer = compat::read_buffer(locator, 0);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let identity = parse(page_bytes(buffer));
        pg_sys::UnlockReleaseBuffer(buffer);
        // The file of a copied database stands for nothing in the store.
        let (database, _, _) = compat::locator_parts(&locator);
        identity.filter(|identity| identity.version == VERSION && identity.database == database)
    }
}
