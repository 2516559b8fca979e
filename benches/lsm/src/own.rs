//! Our engine: its own log, flushes, merges and uploads in the background as a server would have them.

use std::sync::Arc;

use lsmstore::{
    Batch, Config, Durability, FlushError, FlushOptions, KeepAll, LogChoice, Store, SystemEnv, View, WriteError,
};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::engine::{Amplified, Engine, Outcome, Place};
use crate::objects::Counted;
use crate::rows::{Key, Row};

/// An open store and what works for it.
pub struct Own {
    store: Store,
    objects: Arc<Counted>,
    durability: Durability,
    wake: Arc<Wake>,
    jobs: Vec<JoinHandle<Result<(), FlushError>>>,
    runtime: Runtime,
}

#[derive(Default)]
struct Wake {
    flush: Notify,
    merge: Notify,
    publish: Notify,
    /// A flush has made room.
    room: Notify,
}

async fn flush_forever(store: Store, wake: Arc<Wake>) -> Result<(), FlushError> {
    loop {
        wake.flush.notified().await;
        while store.wants_flush() {
            store.flush_local(FlushOptions::default()).await?;
            wake.room.notify_waiters();
            wake.merge.notify_one();
            wake.publish.notify_one();
        }
    }
}

async fn merge_forever(store: Store, wake: Arc<Wake>) -> Result<(), FlushError> {
    loop {
        wake.merge.notified().await;
        while store.wants_merge() {
            store.merge_local(Arc::new(KeepAll)).await?;
            wake.publish.notify_one();
        }
    }
}

async fn publish_forever(store: Store, wake: Arc<Wake>) -> Result<(), FlushError> {
    loop {
        wake.publish.notified().await;
        store.publish().await?;
    }
}

impl Own {
    fn view(&self) -> Outcome<Arc<View>> {
        Ok(self.store.view()?)
    }
}

impl Engine for Own {
    fn open(place: &Place) -> Outcome<Own> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let config = Config::new(place.folder.join("local"), "db");
        let objects = Arc::clone(&place.objects);
        let env = Arc::new(SystemEnv::on(runtime.handle().clone()));
        let store = runtime.block_on(Store::open(config, Arc::clone(&objects) as _, env, LogChoice::Own))?;
        let wake = Arc::new(Wake::default());
        let both = || (store.clone(), Arc::clone(&wake));
        let jobs = {
            let ((s1, w1), (s2, w2), (s3, w3)) = (both(), both(), both());
            vec![
                runtime.spawn(flush_forever(s1, w1)),
                runtime.spawn(merge_forever(s2, w2)),
                runtime.spawn(publish_forever(s3, w3)),
            ]
        };
        let durability = if place.durable { Durability::Local } else { Durability::Memory };
        Ok(Own { store, objects, durability, wake, jobs, runtime })
    }

    fn write(&mut self, rows: &[Row]) -> Outcome<()> {
        let mut batch = Batch::new();
        for row in rows {
            batch.put(&row.key, &row.value);
        }
        self.runtime.block_on(async {
            loop {
                let room = self.wake.room.notified();
                match self.store.write(batch.clone(), self.durability).await {
                    Ok(_) => break,
                    Err(WriteError::Full { .. } | WriteError::Behind { .. }) => {
                        self.wake.flush.notify_one();
                        room.await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if self.store.wants_flush() {
                self.wake.flush.notify_one();
            }
            Ok(())
        })
    }

    fn settle(&mut self) -> Outcome<()> {
        self.runtime.block_on(async {
            self.store.flush_local(FlushOptions::default()).await?;
            while self.store.wants_merge() {
                self.store.merge_local(Arc::new(KeepAll)).await?;
            }
            self.store.publish().await?;
            Ok(())
        })
    }

    fn gets(&self, keys: &mut (dyn Iterator<Item = Key> + Send)) -> Outcome<u64> {
        let mut found = 0;
        for key in keys {
            let view = self.view()?;
            found += u64::from(view.get(&key, view.read_sequence())?.is_some());
        }
        Ok(found)
    }

    fn scans(&self, from: &mut (dyn Iterator<Item = Key> + Send), limit: u64) -> Outcome<(u64, u64)> {
        let (mut rows, mut bytes) = (0, 0);
        for key in from {
            let view = self.view()?;
            let mut iter = view.iter(view.read_sequence())?;
            let (mut standing, mut left) = (iter.seek(&key)?, limit);
            while standing && left > 0 {
                (rows, bytes) = (rows + 1, bytes + (iter.key().len() + iter.value().len()) as u64);
                left -= 1;
                standing = iter.next()?;
            }
        }
        Ok((rows, bytes))
    }

    fn amplified(&self) -> Outcome<Amplified> {
        let live = self.store.stats().levels.iter().map(|level| level.object_bytes).sum();
        Ok(Amplified { objects_put: Some(self.objects.requests().put_bytes), live: Some(live) })
    }

    fn close(self) -> Outcome<()> {
        self.jobs.iter().for_each(JoinHandle::abort);
        self.runtime.block_on(async {
            self.store.flush_with(FlushOptions { clean: true, force: false }).await?;
            Ok(self.store.close().await?)
        })
    }
}
