//! A log that a store's owner keeps himself, as PostgreSQL does: one on each machine, to which a batch comes after it was
//! applied, and of which a crash leaves what was flushed and no more than that for sure.
//!
//! Several writers log at the same time, so that the order of the log is not that of the numbers, and a crash may take
//! a batch and leave one with a higher number.

use std::sync::{Arc, Mutex, MutexGuard};

use lsmstore::objects::ObjectStore;
use lsmstore::{
    Birth, Config, Env, ExternalLog, LogChoice, LogError, ManifestInfo, OpenError, Replayed, Store, WriteError,
    candidates,
};
use uuid::Uuid;

use crate::machine::Process;
use crate::model::{Change, batch};
use crate::tally::{self, Event};

#[derive(Clone)]
enum Record {
    Batch(u64, Arc<[Change]>),
    Birth(Uuid),
    /// Somebody opens the store.
    Generation,
}

#[derive(Default)]
struct Records {
    all: Vec<Record>,
    /// How many a crash leaves.
    flushed: usize,
    /// No replay begins before it.
    needed: usize,
}

/// The log of a machine. A position is a number of records.
#[derive(Default)]
pub struct Journal {
    machine: u64,
    records: Mutex<Records>,
}

impl Journal {
    pub fn new(machine: usize) -> Journal {
        Journal { machine: machine as u64, records: Mutex::default() }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap()
    }

    /// The server crashes: of what was not flushed, which is in its memory, some may be there.
    pub fn crash(&self, random: impl FnOnce(u64) -> u64) {
        let mut records = self.records();
        let unflushed = (records.all.len() - records.flushed) as u64;
        let left = records.flushed + random(unflushed + 1) as usize;
        if left < records.all.len() {
            tally::count(Event::Unlogged);
        }
        records.all.truncate(left);
    }

    /// Logs a record; the position behind it.
    fn log(&self, record: Record) -> usize {
        let mut records = self.records();
        records.all.push(record);
        records.all.len()
    }
}

/// The log, as a process has it.
pub struct Keeper {
    pub journal: Arc<Journal>,
    pub process: Arc<Process>,
}

impl Keeper {
    async fn pause(&self) {
        self.process.sleep_up_to(4000).await;
    }

    /// Logs a batch that was applied; the position behind it.
    pub fn logs(&self, first: u64, changes: &Arc<[Change]>) -> usize {
        self.journal.log(Record::Batch(first, Arc::clone(changes)))
    }

    /// Makes the log durable up to a position.
    pub async fn flush(&self, to: usize) {
        self.pause().await;
        let mut records = self.journal.records();
        records.flushed = records.flushed.max(to);
    }

    fn may_fail(&self, what: &str) -> Result<(), LogError> {
        if self.process.owner_fails(what) { Err(LogError::new("the disk of the log is ill")) } else { Ok(()) }
    }

    /// Opens the store, and replays what the log of this machine has of it.
    pub async fn open(
        self: Arc<Keeper>,
        config: Config,
        objects: Arc<dyn ObjectStore>,
        env: Arc<dyn Env>,
    ) -> Result<Store, OpenError> {
        let found = candidates(&config, &objects, &env).await?;
        let chosen = found.local.or(found.newest).filter(|chosen| self.wrote(chosen));
        let generation = self.journal.log(Record::Generation);
        self.flush(generation).await;
        let config = match &chosen {
            Some(chosen) => config.base(chosen.nonce),
            None => config.base_position(generation as u64),
        };
        let store = Store::open(config, objects, env, LogChoice::External(Arc::clone(&self) as _)).await?;
        if let Some(chosen) = chosen {
            self.replay(&store, &chosen, generation).await?;
        }
        // As where a counter goes on at a ceiling, some are given to nobody.
        store.set_next_sequence(store.last_sequence() + 1 + self.process.random(4));
        Ok(store)
    }

    /// Whether a manifest was born in this log, which then knows of it.
    fn wrote(&self, manifest: &ManifestInfo) -> bool {
        let (machine, at) = manifest.owner.split_at(8);
        if machine != self.journal.machine.to_le_bytes() {
            return false;
        }
        let at = u64::from_le_bytes(at.try_into().unwrap()) as usize;
        let records = self.journal.records();
        let born = matches!(records.all.get(at), Some(Record::Birth(nonce)) if *nonce == manifest.nonce);
        assert!(born, "manifest {} is durable, its birth is not", manifest.number);
        let from = manifest.position as usize;
        assert!(records.needed <= from && from <= at, "manifest {} was born at {at}, R is {from}", manifest.number);
        true
    }

    async fn replay(&self, store: &Store, from: &ManifestInfo, to: usize) -> Result<(), OpenError> {
        let records = self.journal.records().all[from.position as usize..to].to_vec();
        for record in records {
            let Record::Batch(first, changes) = record else { continue };
            loop {
                match store.apply_at(first, &batch(&changes)) {
                    Ok(Replayed::Skipped) => {}
                    Ok(_) => tally::count(Event::Replayed),
                    Err(WriteError::Full { .. }) => {
                        store.flush().await.map_err(|error| OpenError::ReplayFlush(Box::new(error)))?;
                        continue;
                    }
                    Err(error) => panic!("a replay: {error}"),
                }
                break;
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl ExternalLog for Keeper {
    async fn position(&self) -> Result<u64, LogError> {
        self.pause().await;
        self.may_fail("its position")?;
        let position = self.journal.records().all.len() as u64;
        self.pause().await;
        Ok(position)
    }

    async fn birth(&self, birth: &Birth) -> Result<Vec<u8>, LogError> {
        self.may_fail("a birth")?;
        let behind = self.journal.log(Record::Birth(birth.nonce));
        self.flush(behind).await;
        self.may_fail("the flush of a birth")?;
        Ok([self.journal.machine, behind as u64 - 1].map(u64::to_le_bytes).concat())
    }

    async fn published(&self, manifest: &ManifestInfo) -> Result<(), LogError> {
        self.pause().await;
        self.may_fail("an announcement")?;
        let mut records = self.journal.records();
        records.needed = records.needed.max(manifest.position as usize);
        Ok(())
    }
}
