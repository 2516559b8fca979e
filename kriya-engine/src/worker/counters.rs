//! Numbers that are given out once: row numbers, entry numbers, ids, segment numbers, and the store's sequence numbers.
//!
//! Every counter has a ceiling that is in the store and in the log before the first number below it is given out; a new
//! worker starts at the ceilings, so no number comes twice, whatever was lost. Ceilings are raised in big steps.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use lsmstore::{Batch, Store, View, WriteError};

use crate::codec;
use crate::keys::{self, Counter, MAX_TID};
use crate::record::{Ceiling, Kind};
use crate::worker::host::HostError;
use crate::worker::owner::LogKeeper;

/// Sequence numbers per raise; half of it is always in hand, more than all sessions together can use at once.
pub(crate) const SEQUENCE_STEP: u64 = 1 << 28;
/// Writes that one batch may hold, so that the above is true.
pub(crate) const MAX_WRITES: usize = 1 << 16;

/// How far numbers jump after a loss: more than anybody can have given out behind the newest manifest.
const JUMP: u64 = 1 << 32;

fn step(counter: Counter) -> u64 {
    match counter {
        Counter::Tids | Counter::Entries => 1 << 18,
        Counter::Objects | Counter::Segments => 1 << 10,
    }
}

/// Why no number was given out.
#[derive(Debug)]
pub(crate) enum CounterError {
    /// Nothing was done.
    Write(WriteError),
    Log(HostError),
    UsedUp(Counter),
}

impl fmt::Display for CounterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CounterError::Write(error) => error.fmt(f),
            CounterError::Log(error) => write!(f, "the ceiling of a counter could not be logged: {error}"),
            CounterError::UsedUp(counter) => write!(f, "all numbers of {counter:?} are used up"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    next: u64,
    ceiling: u64,
}

const FIRST: Numbers = Numbers { next: 1, ceiling: 1 };

pub(crate) struct Counters {
    numbers: Mutex<HashMap<(Counter, u64), Numbers>>,
}

impl Counters {
    /// From the ceilings in the store. One that cannot be read is an error: numbers would start again.
    pub(crate) fn load(store: &View) -> Result<Counters, String> {
        let mut numbers = HashMap::new();
        let text = |error: &dyn fmt::Display| error.to_string();
        let scan = store.scan_prefix(&[keys::CEILING], store.read_sequence());
        let mut scan = scan.map_err(|error| text(&error))?;
        while let Some((key, value)) = scan.next().map_err(|error| text(&error))? {
            let counter = keys::parse_ceiling(key).map_err(|error| text(&error))?;
            let bytes: [u8; 8] = value
                .try_into()
                .map_err(|_| format!("ceiling of {counter:?} has {} bytes, expected 8", value.len()))?;
            let ceiling = u64::from_le_bytes(bytes);
            numbers.insert(counter, Numbers { next: ceiling, ceiling });
        }
        Ok(Counters { numbers: Mutex::new(numbers) })
    }

    /// Lets all numbers go on far above those that are known to have been given out. The caller puts the ceilings into
    /// the store; if that does not become durable, he comes to this again.
    pub(crate) fn far_above(&self, store: &View) -> Result<Vec<Batch>, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let mut all = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of which nothing is known yet may have begun as well.
        all.entry((Counter::Objects, 0)).or_insert(FIRST);
        let mut scan = store.scan_prefix(&[keys::CATALOGUE], store.read_sequence()).map_err(|error| text(&error))?;
        while let Some((key, _)) = scan.next().map_err(|error| text(&error))? {
            let id = keys::parse_pair(keys::CATALOGUE, key).map_err(|error| text(&error))?;
            all.entry((Counter::Tids, id)).or_insert(FIRST);
        }
        let mut batches = vec![Batch::new()];
        for (n, ((counter, id), numbers)) in all.iter_mut().enumerate() {
            let next = numbers.ceiling.saturating_add(JUMP);
            *numbers = Numbers { next, ceiling: next };
            if n % 256 == 255 {
                batches.push(Batch::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.put(&keys::ceiling(*counter, *id), &next.to_le_bytes());
            }
        }
        Ok(batches)
    }

    /// The first of `count` numbers in a row.
    pub(crate) fn take(
        &self,
        store: &Store,
        log: &LogKeeper,
        counter: Counter,
        id: u64,
        count: u64,
    ) -> Result<u64, CounterError> {
        let mut all = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = all.entry((counter, id)).or_insert(FIRST);
        let end = numbers.next.checked_add(count).filter(|end| counter != Counter::Tids || *end <= MAX_TID);
        let end = end.ok_or(CounterError::UsedUp(counter))?;
        if end > numbers.ceiling {
            let ceiling = end.saturating_add(step(counter));
            let mut batch = Batch::new();
            batch.put(&keys::ceiling(counter, id), &ceiling.to_le_bytes());
            reserve_sequences(store, log)?;
            let applied = store.apply(&batch).map_err(CounterError::Write)?;
            log.log(Kind::Batch, applied.first, batch.as_bytes(), false).map_err(CounterError::Log)?;
            numbers.ceiling = ceiling;
        }
        let first = numbers.next;
        numbers.next = end;
        Ok(first)
    }

    /// Notes a counter whose ceiling the caller puts into the store, and logs, himself.
    pub(crate) fn set(&self, counter: Counter, id: u64, next: u64, ceiling: u64) {
        let mut all = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = all.entry((counter, id)).or_insert(Numbers { next, ceiling });
        numbers.next = numbers.next.max(next);
        numbers.ceiling = numbers.ceiling.max(ceiling);
    }
}

/// Makes sure that sequence numbers can be given out: called before every batch that is applied.
pub(crate) fn reserve_sequences(store: &Store, log: &LogKeeper) -> Result<(), CounterError> {
    let ceiling = log.sequence_ceiling.load(Ordering::SeqCst);
    let last = store.last_sequence();
    if last + SEQUENCE_STEP / 2 < ceiling {
        return Ok(());
    }
    raise_sequences(last, log).map_err(CounterError::Log)
}

/// Logs a new ceiling above `last`.
pub(crate) fn raise_sequences(last: u64, log: &LogKeeper) -> Result<(), HostError> {
    let sequence = last + SEQUENCE_STEP;
    log.log(Kind::Ceiling, 0, &codec::encode(&Ceiling { sequence }), false)?;
    log.sequence_ceiling.fetch_max(sequence, Ordering::SeqCst);
    Ok(())
}
