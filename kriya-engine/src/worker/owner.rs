//! What the worker keeps in every manifest, and its side of the store's external log.
//!
//! The birth record of a manifest is logged and flushed before anything of it is uploaded; the manifest names where it
//! stands. A manifest belongs to this server's history only if exactly that record is found there again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bincode::{Decode, Encode};
use lsmstore::{Birth, ExternalLog, LogError, ManifestInfo, fail};

use crate::codec;
use crate::error::FormatError;
use crate::record::{self, Kind, RecordHead, frames};
use crate::worker::host::{Host, HostError, LogRange};

/// The owner's bytes of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Owner {
    /// Generation of the worker that published.
    pub generation: u64,
    /// No sequence number from here on has been given out.
    pub sequence_ceiling: u64,
    /// Where the birth record stands in the log.
    pub birth_start: u64,
    pub birth_end: u64,
    pub timeline: u32,
    pub system_identifier: u64,
    /// Next full transaction id when the manifest was made.
    pub next_xid: u64,
    pub incarnation: u32,
    /// Generation under which the manifest's position was read: what an older one logged behind it is dropped.
    pub replay_generation: u64,
    /// Something that was acknowledged may be missing, and indexes have not been dropped for that yet.
    pub lossy: bool,
}

const VERSION: u8 = 2;
const WHAT: &str = "manifest's owner section";

impl Owner {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Owner, FormatError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => codec::decode(WHAT, body),
            Some((&version, _)) => Err(FormatError::version(WHAT, VERSION, version)),
            None => Err(FormatError::short(WHAT, 1, 0)),
        }
    }
}

/// The worker's hand on the log.
pub(crate) struct LogKeeper {
    host: Arc<dyn Host>,
    pub generation: u64,
    pub incarnation: u32,
    /// As in [`Owner::sequence_ceiling`].
    pub sequence_ceiling: AtomicU64,
    /// The log before it was let go. Held while the host moves its slot: of two that do so at once, the later position
    /// wins.
    slot: Mutex<u64>,
    /// As in [`Owner::lossy`].
    pub lossy: AtomicBool,
    /// Position of the manifest that was taken over, and the generation under which it was read.
    inherited: Option<(u64, u64)>,
    /// While the store is being opened: the number that its manifest must have, and the store's id if there is one. So
    /// nothing is published on top of a manifest that was not looked at.
    expected: Mutex<Option<(u64, Option<[u8; 16]>)>>,
}

impl LogKeeper {
    pub(crate) fn new(
        host: Arc<dyn Host>,
        generation: u64,
        incarnation: u32,
        sequence_ceiling: u64,
        inherited: Option<(u64, u64)>,
        expected: (u64, Option<[u8; 16]>),
    ) -> Arc<LogKeeper> {
        let sequence_ceiling = AtomicU64::new(sequence_ceiling);
        let expected = Mutex::new(Some(expected));
        let (slot, lossy) = (Mutex::new(0), AtomicBool::new(false));
        Arc::new(LogKeeper { host, generation, incarnation, sequence_ceiling, slot, lossy, inherited, expected })
    }

    /// The store is open: whoever comes between now is fenced by it, or fences us.
    pub(crate) fn opened(&self) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Logs one thing of the worker's own.
    pub(crate) fn log(&self, kind: Kind, sequence: u64, body: &[u8], flush: bool) -> Result<LogRange, HostError> {
        let head = RecordHead { kind, generation: self.generation, sequence, xid: 0, incarnation: self.incarnation };
        let records = frames(&head, body).map_err(|error| HostError::new(error.to_string()))?;
        self.host.log(records, flush)
    }

    /// Lets the log before a position go, unless that has happened; never takes it back. Says whether anything changed.
    pub(crate) fn let_go(&self, position: u64) -> Result<bool, HostError> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if *slot >= position {
            return Ok(false);
        }
        self.host.advance_slot(position)?;
        *slot = position;
        Ok(true)
    }

    fn birth_record(&self, birth: &Birth) -> Result<Vec<u8>, HostError> {
        let expected = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, store_id)) = expected
            && (birth.manifest_number != number || store_id.is_some_and(|id| id != birth.store_id.into_bytes()))
        {
            return Err(HostError::new(format!(
                "another server changed the bucket while this one was opening it: manifest {} is next, expected {number}",
                birth.manifest_number
            )));
        }
        let body = codec::encode(&record_of(birth));
        let range = self.log(Kind::Birth, 0, &body, true)?;
        fail::point("after-birth");
        let facts = self.host.facts()?;
        let owner = Owner {
            generation: self.generation,
            sequence_ceiling: self.sequence_ceiling.load(Ordering::SeqCst),
            birth_start: range.start,
            birth_end: range.end,
            timeline: facts.timeline,
            system_identifier: facts.system_identifier,
            next_xid: facts.next_xid,
            incarnation: self.incarnation,
            replay_generation: match self.inherited {
                Some((position, generation)) if position == birth.position => generation,
                _ => self.generation,
            },
            lossy: self.lossy.load(Ordering::SeqCst),
        };
        Ok(owner.encode())
    }

    /// Runs a call that waits for the host's thread where it may block.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&LogKeeper) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, LogError> {
        let keeper = Arc::clone(self);
        match tokio::task::spawn_blocking(move || call(&keeper)).await {
            Ok(answer) => answer.map_err(|error| LogError::new(error.to_string())),
            Err(_) => Err(LogError::new("a call to the log was lost")),
        }
    }
}

fn record_of(birth: &Birth) -> record::Birth {
    record::Birth {
        store_id: birth.store_id.into_bytes(),
        epoch: birth.epoch,
        manifest: birth.manifest_number,
        nonce: birth.nonce.into_bytes(),
        position: birth.position,
        sequence: birth.last_sequence,
    }
}

/// The keeper as the store sees it.
pub(crate) struct StoreLog(pub(crate) Arc<LogKeeper>);

#[async_trait]
impl ExternalLog for StoreLog {
    async fn position(&self) -> Result<u64, LogError> {
        self.0.ask(|keeper| keeper.host.position()).await
    }

    async fn birth(&self, birth: &Birth) -> Result<Vec<u8>, LogError> {
        let birth = birth.clone();
        self.0.ask(move |keeper| keeper.birth_record(&birth)).await
    }

    async fn published(&self, manifest: &ManifestInfo) -> Result<(), LogError> {
        let position = manifest.position;
        fail::point("before-slot");
        self.0.ask(move |keeper| keeper.let_go(position)).await.map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;
    use crate::worker::host::{Facts, KeptLog, Level, LogChunk, XidState};

    /// A host whose slot takes its time to move to position 10, until it has seen 20 or not for a while.
    struct SlowSlot {
        moved: Mutex<Vec<u64>>,
        entered: Sender<()>,
        went_by: Mutex<Receiver<()>>,
        goes_by: Sender<()>,
    }

    fn unused<T>() -> Result<T, HostError> {
        Err(HostError::new("nobody asks for this"))
    }

    impl Host for SlowSlot {
        fn advance_slot(&self, position: u64) -> Result<(), HostError> {
            if position == 10 {
                self.entered.send(()).unwrap();
                let _ = self.went_by.lock().unwrap().recv_timeout(Duration::from_millis(300));
            }
            self.moved.lock().unwrap().push(position);
            self.goes_by.send(()).unwrap();
            Ok(())
        }
        fn facts(&self) -> Result<Facts, HostError> {
            unused()
        }
        fn position(&self) -> Result<u64, HostError> {
            unused()
        }
        fn redo(&self) -> Result<u64, HostError> {
            unused()
        }
        fn log(&self, _: Vec<Vec<u8>>, _: bool) -> Result<LogRange, HostError> {
            unused()
        }
        fn read_log(&self, _: u64, _: u64, _: usize) -> Result<LogChunk, HostError> {
            unused()
        }
        fn ensure_slot(&self, _: u64) -> Result<(), HostError> {
            unused()
        }
        fn kept(&self) -> Result<KeptLog, HostError> {
            unused()
        }
        fn resolve(&self, _: &[u64]) -> Result<Vec<XidState>, HostError> {
            unused()
        }
        fn barrier(&self) -> Result<(), HostError> {
            unused()
        }
        fn report(&self, _: Level, _: &str) {}
    }

    #[test]
    fn of_two_who_let_the_log_go_at_once_the_later_position_wins() {
        let ((entered, enters), (goes_by, went_by)) = (channel(), channel());
        let host = SlowSlot { moved: Mutex::default(), entered, went_by: Mutex::new(went_by), goes_by };
        let host = Arc::new(host);
        let keeper = LogKeeper::new(Arc::clone(&host) as _, 1, 1, 1, None, (1, None));
        let earlier = Arc::clone(&keeper);
        let first = std::thread::spawn(move || earlier.let_go(10).unwrap());
        enters.recv().unwrap();
        assert!(keeper.let_go(20).unwrap());
        assert!(first.join().unwrap());
        assert!(!keeper.let_go(15).unwrap());
        assert_eq!(*host.moved.lock().unwrap(), [10, 20]);
    }

    #[test]
    fn the_owner_section_comes_back_and_other_bytes_are_errors() {
        let owner = Owner {
            generation: 1,
            sequence_ceiling: 2,
            birth_start: 3,
            birth_end: 4,
            timeline: 5,
            system_identifier: 6,
            next_xid: 7,
            incarnation: 8,
            replay_generation: 1,
            lossy: true,
        };
        let bytes = owner.encode();
        assert_eq!(Owner::parse(&bytes).unwrap(), owner);
        for cut in 0..bytes.len() {
            assert!(Owner::parse(&bytes[..cut]).is_err());
        }
        assert!(Owner::parse(&[9]).is_err());
    }
}
