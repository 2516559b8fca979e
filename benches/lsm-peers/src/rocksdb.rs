//! RocksDB of the system, through the few functions of its C interface that are needed: zstd, Bloom filters of ten bits,
//! a cache of 256 MiB.
//!
//! # Invariants
//! * Every pointer here came from the library and is used until `close`, or freed where it was got.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::time::Duration;

use kriya_bench_lsm::{Amplified, CACHE_BYTES, Engine, Key, Outcome, Place, Row};

type Handle = *mut c_void;
type Error = *mut *mut c_char;

#[link(name = "rocksdb")]
unsafe extern "C" {
    fn rocksdb_open(options: Handle, name: *const c_char, error: Error) -> Handle;
    fn rocksdb_close(db: Handle);
    fn rocksdb_free(pointer: *mut c_void);
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_set_create_if_missing(options: Handle, yes: u8);
    fn rocksdb_options_increase_parallelism(options: Handle, threads: c_int);
    fn rocksdb_options_set_compression(options: Handle, kind: c_int);
    fn rocksdb_options_set_block_based_table_factory(options: Handle, table: Handle);
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_set_filter_policy(table: Handle, filter: Handle);
    fn rocksdb_block_based_options_set_block_cache(table: Handle, cache: Handle);
    fn rocksdb_cache_create_lru(bytes: usize) -> Handle;
    fn rocksdb_filterpolicy_create_bloom_full(bits: f64) -> Handle;
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_set_sync(options: Handle, yes: u8);
    fn rocksdb_readoptions_create() -> Handle;
    fn rocksdb_flushoptions_create() -> Handle;
    fn rocksdb_flush(db: Handle, options: Handle, error: Error);
    fn rocksdb_property_int(db: Handle, name: *const c_char, out: *mut u64) -> c_int;
    fn rocksdb_writebatch_create() -> Handle;
    fn rocksdb_writebatch_clear(batch: Handle);
    fn rocksdb_writebatch_put(batch: Handle, key: *const u8, key_len: usize, value: *const u8, value_len: usize);
    fn rocksdb_write(db: Handle, options: Handle, batch: Handle, error: Error);
    fn rocksdb_get_pinned(db: Handle, options: Handle, key: *const u8, key_len: usize, error: Error) -> Handle;
    fn rocksdb_pinnableslice_destroy(slice: Handle);
    fn rocksdb_create_iterator(db: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_destroy(iter: Handle);
    fn rocksdb_iter_seek(iter: Handle, key: *const u8, key_len: usize);
    fn rocksdb_iter_valid(iter: Handle) -> u8;
    fn rocksdb_iter_next(iter: Handle);
    fn rocksdb_iter_key(iter: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_iter_value(iter: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_iter_get_error(iter: Handle, error: Error);
}

const ZSTD: c_int = 7;

/// Calls a function that may leave a message.
fn call<T>(function: impl FnOnce(Error) -> T) -> Outcome<T> {
    let mut error = null_mut();
    let done = function(&mut error);
    if error.is_null() {
        return Ok(done);
    }
    // SAFETY: the library left a message that ends with a zero, and that is ours to free.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        rocksdb_free(error.cast());
        message
    };
    Err(message.into())
}

pub struct RocksDb {
    db: Handle,
    write: Handle,
    read: Handle,
    batch: Handle,
}

impl RocksDb {
    fn number(&self, name: &CStr) -> Outcome<u64> {
        let mut out = 0;
        // SAFETY: the database is open, the name ends with a zero, `out` is ours.
        match unsafe { rocksdb_property_int(self.db, name.as_ptr(), &mut out) } {
            0 => Ok(out),
            _ => Err(format!("the property {name:?} is not known").into()),
        }
    }

    fn folder(path: &Path) -> Outcome<CString> {
        std::fs::create_dir_all(path)?;
        Ok(CString::new(path.to_string_lossy().as_bytes())?)
    }
}

impl Engine for RocksDb {
    fn open(place: &Place) -> Outcome<RocksDb> {
        let folder = RocksDb::folder(&place.folder.join("local"))?;
        // SAFETY: each call gets what the one before made, of the type that its C declaration names.
        unsafe {
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_increase_parallelism(options, 2);
            rocksdb_options_set_compression(options, ZSTD);
            let table = rocksdb_block_based_options_create();
            rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10.0));
            rocksdb_block_based_options_set_block_cache(table, rocksdb_cache_create_lru(CACHE_BYTES as usize));
            rocksdb_options_set_block_based_table_factory(options, table);
            let db = call(|error| rocksdb_open(options, folder.as_ptr(), error))?;
            let write = rocksdb_writeoptions_create();
            rocksdb_writeoptions_set_sync(write, u8::from(place.durable));
            Ok(RocksDb { db, write, read: rocksdb_readoptions_create(), batch: rocksdb_writebatch_create() })
        }
    }

    fn write(&mut self, rows: &[Row]) -> Outcome<()> {
        // SAFETY: keys and values are read during the calls only.
        unsafe {
            rocksdb_writebatch_clear(self.batch);
            for Row { key, value } in rows {
                rocksdb_writebatch_put(self.batch, key.as_ptr(), key.len(), value.as_ptr(), value.len());
            }
            call(|error| rocksdb_write(self.db, self.write, self.batch, error))
        }
    }

    fn settle(&mut self) -> Outcome<()> {
        // SAFETY: the database is open; by default the call waits for the flush.
        call(|error| unsafe { rocksdb_flush(self.db, rocksdb_flushoptions_create(), error) })?;
        while self.number(c"rocksdb.num-running-compactions")? > 0 || self.number(c"rocksdb.compaction-pending")? > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn gets(&self, keys: &mut (dyn Iterator<Item = Key> + Send)) -> Outcome<u64> {
        let mut found = 0;
        for key in keys {
            // SAFETY: the key is read during the call only; what is returned is ours to destroy.
            unsafe {
                let slice = call(|error| rocksdb_get_pinned(self.db, self.read, key.as_ptr(), key.len(), error))?;
                if !slice.is_null() {
                    found += 1;
                    rocksdb_pinnableslice_destroy(slice);
                }
            }
        }
        Ok(found)
    }

    fn scans(&self, from: &mut (dyn Iterator<Item = Key> + Send), limit: u64) -> Outcome<(u64, u64)> {
        let (mut rows, mut bytes) = (0, 0);
        for key in from {
            let mut left = limit;
            // SAFETY: key and value are asked for where the iterator is valid; lengths are ours.
            unsafe {
                let iter = rocksdb_create_iterator(self.db, self.read);
                rocksdb_iter_seek(iter, key.as_ptr(), key.len());
                while left > 0 && rocksdb_iter_valid(iter) != 0 {
                    let (mut key, mut value) = (0, 0);
                    rocksdb_iter_key(iter, &mut key);
                    rocksdb_iter_value(iter, &mut value);
                    (rows, bytes) = (rows + 1, bytes + (key + value) as u64);
                    left -= 1;
                    rocksdb_iter_next(iter);
                }
                let ended = call(|error| rocksdb_iter_get_error(iter, error));
                rocksdb_iter_destroy(iter);
                ended?;
            }
        }
        Ok((rows, bytes))
    }

    fn amplified(&self) -> Outcome<Amplified> {
        Ok(Amplified { objects_put: None, live: Some(self.number(c"rocksdb.live-sst-files-size")?) })
    }

    fn close(self) -> Outcome<()> {
        // SAFETY: nothing of the database is used after this.
        unsafe { rocksdb_close(self.db) };
        Ok(())
    }
}
