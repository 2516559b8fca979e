//! SlateDB as published, with zstd; its blocks are cached in memory (moka), scans read ahead.
//!
//! Where writes are to be durable, it flushes every 5 ms instead of every 100.

use std::sync::Arc;
use std::time::Duration;

use kriya_bench_lsm::{Amplified, Engine, Key, Outcome, Place, Row};
use slatedb::config::{CompressionCodec, FlushOptions, FlushType, ScanOptions, Settings};
use slatedb::{Db, WriteBatch};
use tokio::runtime::Runtime;

pub struct Slate {
    db: Db,
    durable: bool,
    runtime: Runtime,
}

impl Engine for Slate {
    fn open(place: &Place) -> Outcome<Slate> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut settings = Settings { compression_codec: Some(CompressionCodec::Zstd), ..Settings::default() };
        if place.durable {
            settings.flush_interval = Some(Duration::from_millis(5));
        }
        let objects = Arc::clone(&place.objects);
        let db = runtime.block_on(async { Db::builder("db", objects as _).with_settings(settings).build().await })?;
        Ok(Slate { db, durable: place.durable, runtime })
    }

    fn write(&mut self, rows: &[Row]) -> Outcome<()> {
        let mut batch = WriteBatch::new();
        for row in rows {
            batch.put(row.key, &row.value);
        }
        self.runtime.block_on(async {
            let handle = self.db.write(batch).await?;
            if self.durable {
                handle.await_durable().await?;
            }
            Ok(())
        })
    }

    fn settle(&mut self) -> Outcome<()> {
        self.runtime.block_on(async {
            self.db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await?;
            let mut before = None;
            let mut quiet = 0;
            // Its compactor looks every five seconds.
            while quiet < 8 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let now = self.db.manifest().id();
                quiet = if before == Some(now) { quiet + 1 } else { 0 };
                before = Some(now);
            }
            Ok(())
        })
    }

    fn gets(&self, keys: &mut (dyn Iterator<Item = Key> + Send)) -> Outcome<u64> {
        self.runtime.block_on(async {
            let mut found = 0;
            for key in keys {
                found += u64::from(self.db.get(key).await?.is_some());
            }
            Ok(found)
        })
    }

    fn scans(&self, from: &mut (dyn Iterator<Item = Key> + Send), limit: u64) -> Outcome<(u64, u64)> {
        self.runtime.block_on(async {
            let (mut rows, mut bytes) = (0, 0);
            for key in from {
                let ahead = if limit > 1_000 { 1 << 20 } else { 1 };
                let options = ScanOptions { read_ahead_bytes: ahead, cache_blocks: true, ..ScanOptions::default() };
                let mut iter = self.db.scan_with_options(key.to_vec().., &options).await?;
                let mut left = limit;
                while left > 0 {
                    let Some(row) = iter.next().await? else { break };
                    (rows, bytes) = (rows + 1, bytes + (row.key.len() + row.value.len()) as u64);
                    left -= 1;
                }
            }
            Ok((rows, bytes))
        })
    }

    fn amplified(&self) -> Outcome<Amplified> {
        Ok(Amplified::default())
    }

    fn close(self) -> Outcome<()> {
        Ok(self.runtime.block_on(self.db.close())?)
    }
}
