//! Those who use a store while it lives: writers, readers, and a steward who flushes, merges, collects and holds
//! checkpoints now and then. Each judges what it is told: an error must have a reason that the simulation knows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lsmstore::{
    Applied, CheckpointError, CheckpointOptions, DeterministicReactor, Durability, FlushError, FlushOptions, GcError,
    GcOptions, MergeEntry, MergePolicy, Reactor, StorageError, Store, Unusable, WriteError,
};

use crate::journal::Keeper;
use crate::machine::Process;
use crate::model::{Change, Life, Loss, batch, counter, scan};
use crate::tally::{self, Event};

/// How many keys there are.
const KEYS: u64 = 48;

/// A life, and the store that it is of.
pub struct Running {
    pub store: Store,
    pub process: Arc<Process>,
    pub life: Arc<Mutex<Life>>,
    pub own_log: bool,
    pub remote_log: bool,
    /// The log, if its owner keeps one.
    pub keeper: Option<Arc<Keeper>>,
    /// Writers and the steward are to end.
    pub stop: AtomicBool,
    /// Writers that have not ended, and the steward.
    pub writing: AtomicU64,
}

/// Keeps everything, and lets others go on between groups.
pub struct Yielding(pub DeterministicReactor);

impl MergePolicy for Yielding {
    fn judge(&self, _: &[MergeEntry<'_>], _: bool, _: &mut [bool]) {}

    fn goes_on(&self) -> bool {
        if self.0.random(6) == 0 {
            self.0.pause(Duration::from_micros(self.0.random(3000)));
        }
        true
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("k{number:03}").into_bytes()
}

impl Running {
    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap()
    }

    fn random(&self, below: u64) -> u64 {
        self.process.random(below)
    }

    async fn sleep(&self, most: u64) {
        self.process.sleep_up_to(most * 1000).await;
    }

    /// The number that was given out last, as far as the store still says it.
    pub fn written(&self) -> u64 {
        self.store.view().map_or(0, |view| view.read_sequence())
    }

    /// That the store refuses everything has a reason.
    pub fn judge(&self, why: &Unusable) {
        let life = self.life();
        let justified = match why {
            Unusable::Fenced { .. } => life.contested,
            Unusable::Poisoned { .. } => self.process.log_failed(),
            Unusable::Closed => life.closing,
            _ => false,
        };
        assert!(justified, "life {} without a reason: {why}", life.number);
    }

    pub fn judge_storage(&self, error: &StorageError) {
        match error {
            StorageError::Object { .. } => {}
            StorageError::Local { .. } if self.process.failed() => {}
            // Others may collect what this one still looks at.
            StorageError::Missing { .. } if self.life().contested => {}
            error => panic!("life {}: {error}", self.life().number),
        }
    }

    pub fn judge_flush(&self, error: &FlushError) {
        match error {
            FlushError::Unusable(why) => self.judge(why),
            FlushError::Storage(error) => self.judge_storage(error),
            FlushError::Log(_) | FlushError::NotAnnounced(_) if self.process.failed() => {}
            error => panic!("life {}: {error}", self.life().number),
        }
    }

    fn draw(&self, writer: u32) -> Vec<Change> {
        let count = 1 + self.random(4);
        (0..count)
            .map(|_| {
                let at = self.random(KEYS);
                match self.random(12) {
                    0 => Change::Range(key(at), key(at + 1 + self.random(12))),
                    1..4 => Change::Delete(key(at)),
                    _ => {
                        let length = self.random(if self.random(8) == 0 { 1500 } else { 120 }) as usize;
                        let text = format!("{writer}.{} {}", self.random(1000), "x".repeat(length));
                        Change::Put(key(at), text.into_bytes())
                    }
                }
            })
            .collect()
    }

    /// Writes a batch, and says what it survives now.
    async fn take(
        &self,
        changes: &Arc<[Change]>,
        durability: Durability,
    ) -> Result<(Applied, Option<Loss>), WriteError> {
        let Some(keeper) = &self.keeper else {
            let applied = self.store.write(batch(changes), durability).await?;
            let kept = match durability {
                Durability::Remote => Loss::Disk,
                Durability::Local => Loss::Machine,
                _ => Loss::Process,
            };
            return Ok((applied, self.own_log.then_some(kept)));
        };
        let applied = self.store.apply(&batch(changes))?;
        if self.random(2) == 0 {
            self.sleep(20).await;
        }
        let logged = keeper.logs(applied.first, changes);
        if self.random(3) > 0 {
            return Ok((applied, None));
        }
        keeper.flush(logged).await;
        Ok((applied, Some(Loss::Machine)))
    }

    /// Writes one batch after the other.
    pub async fn write(self: Arc<Running>, writer: u32, pace: u64) {
        while !self.stop.load(Ordering::Relaxed) {
            self.sleep(pace).await;
            let changes = self.draw(writer);
            let changes = self.life().issue(writer, changes);
            let durability = match self.random(4) {
                0 if self.remote_log => Durability::Remote,
                0 | 1 if self.own_log => Durability::Local,
                _ => Durability::Memory,
            };
            loop {
                match self.take(&changes, durability).await {
                    Ok((applied, kept)) => {
                        let mut life = self.life();
                        life.acknowledge(writer, applied.first, applied.last);
                        match kept {
                            Some(kept) if self.own_log => life.promise(kept, applied.last),
                            Some(kept) => life.keep(writer, kept),
                            None => {}
                        }
                        break;
                    }
                    Err(WriteError::Full { .. } | WriteError::Behind { .. }) => self.sleep(200).await,
                    Err(WriteError::Unusable(why)) => {
                        self.judge(&why);
                        self.writing.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    Err(error) => panic!("life {}: {error}", self.life().number),
                }
            }
            if self.random(4) == 0 {
                // What was acknowledged is read.
                match self.store.view() {
                    Ok(view) => {
                        let found = view.get(&counter(writer), view.read_sequence()).unwrap();
                        let expected = self.life().count(writer);
                        assert_eq!(found, Some(&expected[..]), "writer {writer} does not find what it wrote");
                    }
                    Err(why) => self.judge(&why),
                }
            }
        }
        self.writing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Compares what there is with what there should be, and with itself a while later.
    pub async fn read(self: Arc<Running>) {
        loop {
            self.sleep(700).await;
            let view = match self.store.view() {
                Ok(view) => view,
                Err(why) => return self.judge(&why),
            };
            self.life().check(&view);
            let sequence = view.read_sequence();
            let before = scan(&view, sequence, true);
            self.sleep(900).await;
            let after = scan(&view, sequence, false);
            assert!(before == after, "a view reads otherwise the second time, at {sequence}");
            for _ in 0..4 {
                let key = key(self.random(KEYS));
                let found = view.get(&key, sequence).unwrap();
                assert_eq!(found, before.get(&key).map(Vec::as_slice), "{} at {sequence}", key.escape_ascii());
            }
        }
    }

    /// Does now one thing, now another.
    pub async fn look_after(self: Arc<Running>) {
        self.look_after_it().await;
        self.writing.fetch_sub(1, Ordering::Relaxed);
    }

    async fn look_after_it(&self) {
        let store = &self.store;
        while !self.stop.load(Ordering::Relaxed) {
            self.sleep(900).await;
            let sequence = self.written();
            let done = match self.random(9) {
                0 | 1 => store.flush().await.map(|_| Some(Loss::Disk)),
                2 => store.flush_local(FlushOptions::default()).await.map(|_| Some(Loss::Machine)),
                3 => {
                    let policy = Arc::new(Yielding(self.process.reactor().clone()));
                    store.merge_local(policy).await.map(|_| None)
                }
                4 => store.publish().await.map(|_| None),
                5 => {
                    self.checkpoint().await;
                    Ok(None)
                }
                _ => match self.collect().await {
                    true => Ok(None),
                    false => return,
                },
            };
            match done {
                Ok(Some(loss)) => self.life().promise(loss, sequence),
                Ok(None) => {}
                Err(error) => {
                    self.judge_flush(&error);
                    if let FlushError::Unusable(_) = error {
                        return;
                    }
                }
            }
        }
    }

    /// One pass of garbage collection; no if the store refuses everything.
    pub async fn collect(&self) -> bool {
        match self.store.collect_garbage(GcOptions::default()).await {
            Ok(report) => {
                if !report.deleted.is_empty() {
                    tally::count(Event::Deletion);
                }
                true
            }
            Err(GcError::Unusable(why)) => {
                self.judge(&why);
                false
            }
            Err(GcError::Storage(error)) => {
                self.judge_storage(&error);
                true
            }
            Err(error) => panic!("life {}: {error}", self.life().number),
        }
    }

    /// Makes a checkpoint, holds it for a while, and deletes it, or forgets it.
    async fn checkpoint(&self) {
        let checkpoints = self.store.checkpoints();
        let ttl = (self.random(2) == 0).then(|| Duration::from_millis(100 + self.random(5000)));
        let held = checkpoints.create(CheckpointOptions { ttl, ..CheckpointOptions::default() }).await;
        let held = match held {
            Ok(held) => held,
            Err(error) => return self.judge_checkpoint(&error),
        };
        for _ in 0..self.random(4) {
            self.sleep(700).await;
            if let Err(error) = checkpoints.refresh(held.id).await {
                self.judge_checkpoint(&error);
            }
        }
        if ttl.is_none() || self.random(2) == 0 {
            while let Err(error) = checkpoints.delete(held.id).await {
                self.judge_checkpoint(&error);
                if !matches!(error, CheckpointError::Storage(StorageError::Object { .. })) {
                    break;
                }
                self.sleep(500).await;
            }
        }
    }

    fn judge_checkpoint(&self, error: &CheckpointError) {
        match error {
            CheckpointError::Storage(error) => self.judge_storage(error),
            CheckpointError::Collected { .. }
            | CheckpointError::NoManifest { .. }
            | CheckpointError::NotFound { .. }
            | CheckpointError::Ended { .. }
            | CheckpointError::Contended { .. } => {}
            error => panic!("life {}: {error}", self.life().number),
        }
    }
}
