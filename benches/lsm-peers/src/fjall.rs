//! fjall as published: lz4, a cache of 256 MiB.

use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use kriya_bench_lsm::{Amplified, CACHE_BYTES, Engine, Key, Outcome, Place, Row};

pub struct Fjall {
    database: Database,
    rows: Keyspace,
    persist: PersistMode,
}

impl Engine for Fjall {
    fn open(place: &Place) -> Outcome<Fjall> {
        let database = Database::builder(place.folder.join("local")).cache_size(CACHE_BYTES).open()?;
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
        let persist = if place.durable { PersistMode::SyncData } else { PersistMode::Buffer };
        Ok(Fjall { database, rows, persist })
    }

    fn write(&mut self, rows: &[Row]) -> Outcome<()> {
        let mut batch = self.database.batch().durability(Some(self.persist));
        for row in rows {
            batch.insert(&self.rows, row.key, &row.value[..]);
        }
        Ok(batch.commit()?)
    }

    fn settle(&mut self) -> Outcome<()> {
        self.rows.rotate_memtable_and_wait()?;
        let mut quiet = 0;
        // A compaction may be about to begin.
        while quiet < 5 {
            std::thread::sleep(Duration::from_millis(20));
            let busy = self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0;
            quiet = if busy { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    fn gets(&self, keys: &mut (dyn Iterator<Item = Key> + Send)) -> Outcome<u64> {
        let mut found = 0;
        for key in keys {
            found += u64::from(self.rows.get(key)?.is_some());
        }
        Ok(found)
    }

    fn scans(&self, from: &mut (dyn Iterator<Item = Key> + Send), limit: u64) -> Outcome<(u64, u64)> {
        let (mut rows, mut bytes) = (0, 0);
        for key in from {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            for row in self.rows.range(key..).take(limit) {
                let (key, value) = row.into_inner()?;
                (rows, bytes) = (rows + 1, bytes + (key.len() + value.len()) as u64);
            }
        }
        Ok((rows, bytes))
    }

    fn amplified(&self) -> Outcome<Amplified> {
        Ok(Amplified { objects_put: None, live: Some(self.rows.disk_space()) })
    }

    fn close(self) -> Outcome<()> {
        Ok(self.database.persist(PersistMode::Buffer)?)
    }
}
